use std::time::SystemTime;

use vms_core::metric::Metric;
use vms_core::probe::{ConnectionProbe, MatchedSourceLabels};
use vms_core::process::ProcessPattern;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const TEXT: Form = Form { format: Format::Text, coding: Coding::Identity };
const OPEN_METRICS: Form = Form { format: Format::OpenMetrics, coding: Coding::Identity };

fn probe(name: &str, interval: Duration) -> Probe {
    let process = ProcessPattern { name: "svc".parse().unwrap(), executable: None };
    Probe::from(ConnectionProbe {
        name: name.into(),
        source_process: process.clone(),
        dest_process: process,
        dest_ip: "10.0.0.5".parse().unwrap(),
        dest_port: 5432,
        source_ip: None,
        source_port: None,
        interval,
        matched_source_labels: MatchedSourceLabels::None,
    })
}

fn point(metric: &'static Metric, key: &'static str, value: &str, number: i64) -> DataPoint {
    DataPoint {
        metric,
        attributes: Arc::new(AttributeSet::new([Attribute::new(key, value)])),
        extra: None,
        time: SystemTime::UNIX_EPOCH,
        start: None,
        value: Value::Int(number),
    }
}

fn up(name: &str, number: i64) -> DataPoint {
    point(&metric::UP, "name", name, number)
}

/// A recorder of a link that is looked at each second, and of one that is each minute.
fn recorder() -> (Recorder, Shared) {
    let shared = Shared::default();
    let mut recorder = Recorder::new(shared.clone());
    recorder.set_probes(&[probe("fast", SECOND), probe("slow", 60 * SECOND)], 15 * SECOND);
    (recorder, shared)
}

fn cycle(recorder: &mut Recorder, due: &[usize], at: Duration, points: impl Into<Vec<DataPoint>>) {
    recorder.begin_cycle(due, at);
    // In pieces, as a cycle of many links is.
    for point in points.into() {
        let mut piece = vec![point];
        recorder.take(&mut piece);
        assert!(piece.is_empty());
    }
    recorder.end_cycle();
}

/// The samples of links, and those of the data's age, that a scrape finds at that time.
fn scrape(shared: &Shared, now: Duration) -> (Vec<String>, Vec<String>) {
    let snapshot = shared.present();
    let written = snapshot.written(TEXT, now).unwrap_or_else(|| snapshot.write(TEXT, now));
    let text: String = written
        .answer(now, SystemTime::UNIX_EPOCH)
        .map(|piece| String::from_utf8(piece.to_vec()).unwrap())
        .concat();
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("target_info"));
    samples.map(str::to_owned).partition(|line| !line.starts_with("vms_agent_scrape_data_age"))
}

fn told(shared: &Shared, now: Duration) -> Vec<String> {
    scrape(shared, now).0
}

const FAST: &str = "vms_connection_mon_up_ratio{name=\"fast\"}";
const SLOW: &str = "vms_connection_mon_up_ratio{name=\"slow\"}";

#[test]
fn a_probe_that_was_not_due_is_told_of_as_before() {
    let (mut recorder, shared) = recorder();
    cycle(&mut recorder, &[0, 1], SECOND, [up("fast", 1), up("slow", 1)]);
    cycle(&mut recorder, &[0], 2 * SECOND, [up("fast", 0)]);
    assert_eq!(told(&shared, 2 * SECOND), [format!("{FAST} 0"), format!("{SLOW} 1")]);
}

#[test]
fn a_probe_that_could_not_be_measured_is_not_told_of() {
    let (mut recorder, shared) = recorder();
    cycle(&mut recorder, &[0, 1], SECOND, [up("fast", 1), up("slow", 1)]);
    cycle(&mut recorder, &[0, 1], 2 * SECOND, [up("slow", 1)]);
    assert_eq!(told(&shared, 2 * SECOND), [format!("{SLOW} 1")]);
    cycle(&mut recorder, &[0], 3 * SECOND, []);
    assert_eq!(told(&shared, 3 * SECOND), [format!("{SLOW} 1")]);
    cycle(&mut recorder, &[0], 4 * SECOND, [up("fast", 1)]);
    assert_eq!(told(&shared, 4 * SECOND), [format!("{FAST} 1"), format!("{SLOW} 1")]);
}

#[test]
fn a_series_that_a_probe_tells_no_more_of_is_gone_with_the_next_cycle() {
    let (mut recorder, shared) = recorder();
    let reason = point(&metric::DOWN_REASON, "name", "fast", 1);
    cycle(&mut recorder, &[0], SECOND, [up("fast", 0), reason]);
    assert_eq!(told(&shared, SECOND).len(), 2);
    cycle(&mut recorder, &[0], 2 * SECOND, [up("fast", 1)]);
    assert_eq!(told(&shared, 2 * SECOND), [format!("{FAST} 1")]);
}

#[test]
fn what_is_too_old_for_its_interval_is_not_told_although_nothing_newer_came() {
    let (mut recorder, shared) = recorder();
    cycle(&mut recorder, &[0, 1], Duration::ZERO, [up("fast", 1), up("slow", 1)]);
    let before = |time: Duration| time.saturating_sub(Duration::from_millis(1));
    // A second and the least grace of ten; a minute and twice that.
    for (now, links) in
        [(before(11 * SECOND), 2), (11 * SECOND, 1), (before(180 * SECOND), 1), (180 * SECOND, 0)]
    {
        assert_eq!(told(&shared, now).len(), links, "{now:?}");
    }
    let daily = Told::new(Vec::new(), SECOND, 86_400 * SECOND);
    assert_eq!(daily.until, 86_701 * SECOND, "an interval, and five minutes");
}

#[test]
fn the_age_is_that_of_the_newest_and_the_oldest_and_goes_on_when_nothing_is_left() {
    let age = |statistic: &str, seconds: &str| {
        format!("vms_agent_scrape_data_age_seconds{{statistic=\"{statistic}\"}} {seconds}.0")
    };
    let (mut recorder, shared) = recorder();
    assert_eq!(scrape(&shared, SECOND).1, [""; 0]);
    cycle(&mut recorder, &[0, 1], SECOND, [up("fast", 1), up("slow", 1)]);
    cycle(&mut recorder, &[0], 5 * SECOND, [up("fast", 1)]);
    assert_eq!(scrape(&shared, 6 * SECOND).1, [age("min", "1"), age("max", "5")]);
    assert_eq!(scrape(&shared, 7 * SECOND).1, [age("min", "2"), age("max", "6")], "as of now");
    assert_eq!(scrape(&shared, 1005 * SECOND), (Vec::new(), vec![age("min", "1000")]));
}

#[test]
fn what_the_agent_tells_of_itself_and_of_permissions_stays_until_it_is_told_again() {
    let (mut recorder, shared) = recorder();
    let missing = |number| point(&metric::PERMISSION_MISSING, "capability", "CAP_SYS_PTRACE", number);
    let reloads = |number| point(&metric::CONFIG_RELOADS, "outcome", "applied", number);
    cycle(&mut recorder, &[0], SECOND, [up("fast", 1), missing(1), reloads(4)]);
    cycle(&mut recorder, &[0], 2 * SECOND, []);
    let (missing_told, reloads_told) = (
        "vms_agent_permission_missing_ratio{capability=\"CAP_SYS_PTRACE\"}",
        "vms_agent_config_reloads_total{outcome=\"applied\"}",
    );
    assert_eq!(told(&shared, 2 * SECOND), [format!("{reloads_told} 4"), format!("{missing_told} 1")]);
    cycle(&mut recorder, &[0], 3 * SECOND, [missing(0), reloads(5)]);
    assert_eq!(told(&shared, 3 * SECOND), [format!("{reloads_told} 5"), format!("{missing_told} 0")]);
}

#[test]
fn after_a_reload_only_probes_that_are_the_same_are_told_of() {
    let (mut recorder, shared) = recorder();
    cycle(&mut recorder, &[0, 1], SECOND, [up("fast", 1), up("slow", 0)]);
    recorder.set_probes(&[probe("new", SECOND), probe("slow", 60 * SECOND)], 15 * SECOND);
    assert_eq!(told(&shared, SECOND), [format!("{SLOW} 0")]);
    cycle(&mut recorder, &[0, 1], 2 * SECOND, [up("new", 1), up("slow", 1)]);
    assert_eq!(told(&shared, 2 * SECOND).len(), 2);
    recorder.set_probes(&[probe("slow", SECOND)], 15 * SECOND);
    assert_eq!(told(&shared, 2 * SECOND), [""; 0], "another interval makes it another probe");
}

#[test]
fn a_snapshot_is_written_once_in_each_form_until_something_in_it_is_too_old() {
    let (mut recorder, shared) = recorder();
    cycle(&mut recorder, &[0, 1], Duration::ZERO, [up("fast", 1), up("slow", 1)]);
    let snapshot = shared.present();
    let beginning = |written: Written| {
        let [beginning, _end] = written.answer(SECOND, SystemTime::UNIX_EPOCH);
        beginning.as_ptr()
    };
    let gzip = |form: Form| Form { coding: Coding::Gzip, ..form };
    for form in [TEXT, gzip(TEXT), OPEN_METRICS, gzip(OPEN_METRICS)] {
        assert!(snapshot.written(form, SECOND).is_none(), "what nobody asked for is not kept");
        let written = beginning(snapshot.write(form, SECOND));
        assert_eq!(beginning(snapshot.written(form, 10 * SECOND).unwrap()), written);
        assert!(snapshot.written(form, 11 * SECOND).is_none());
        let _other = snapshot.write(form, 11 * SECOND);
        assert_ne!(beginning(snapshot.written(form, 12 * SECOND).unwrap()), written);
    }
    assert_eq!(snapshot.kept().len(), 4, "what is too old is not kept beside it");
    cycle(&mut recorder, &[0], SECOND, [up("fast", 0)]);
    assert!(shared.present().written(TEXT, SECOND).is_none(), "another cycle, another text");
}
