use std::time::Duration;

use vms_core::probe::MatchedSourceLabels;
use vms_core::process::ProcessPattern;

use super::*;

#[test]
fn advice_names_the_process_of_the_direction() {
    let pattern = |name: &str, executable: Option<&str>| ProcessPattern {
        name: name.parse().unwrap(),
        executable: executable.map(Into::into),
    };
    let probe = ConnectionProbe {
        name: "link".into(),
        source_process: pattern("orders*", Some("/opt/orders")),
        dest_process: pattern("postgres", None),
        dest_ip: "fd00::1".parse().unwrap(),
        dest_port: 5432,
        source_ip: None,
        source_port: None,
        interval: Duration::from_secs(15),
        matched_source_labels: MatchedSourceLabels::None,
    };
    let absent = |direction| for_down(&probe, direction, DownReason::ProcessAbsent);
    assert!(absent(Some(Direction::Forward)).contains("matches `orders*` (/opt/orders):"));
    assert!(absent(Some(Direction::Reverse)).contains("matches `postgres`:"));
    assert!(absent(None).contains("matches `orders*` (/opt/orders) or `postgres`:"));
    assert!(for_down(&probe, None, DownReason::Connecting).starts_with("[fd00::1]:5432 does not answer"));
}
