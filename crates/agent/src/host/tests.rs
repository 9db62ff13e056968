use super::*;

#[test]
fn hosts_are_spread_and_each_keeps_its_place() {
    let of = |id: &str| phase(&[("service.instance.id".to_owned(), id.to_owned())]);
    assert_eq!(of("a"), of("a"));
    let interval = Duration::from_secs(15).as_nanos();
    let mut quarters = [0; 4];
    for host in 0..400 {
        let within = of(&format!("host-{host}")).as_nanos() % interval;
        quarters[usize::try_from(within * 4 / interval).unwrap()] += 1;
    }
    assert!(quarters.iter().all(|hosts| (60..140).contains(hosts)), "{quarters:?}");
}
