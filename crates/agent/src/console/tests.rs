use std::sync::Arc;
use std::time::Duration;

use insta::assert_snapshot;
use vms_core::metric::{
    Attribute, AttributeSet, CONNECTIONS, CYCLE_DURATION, DOWN_REASON, Extra, Histogram, Kind, MEASUREMENTS,
    Metric, PERMISSION_MISSING, PROCESS_CPU_TIME, STATUS, UNATTRIBUTED, UP,
};

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 25)
}

fn point(metric: &'static Metric, attributes: &[Attribute], extra: Option<Extra>, value: i64) -> DataPoint {
    DataPoint {
        metric,
        attributes: Arc::new(AttributeSet::new(attributes)),
        extra,
        time: at(1_785_628_800),
        start: None,
        value: Value::Int(value),
    }
}

fn link(direction: &str) -> Vec<Attribute> {
    vec![
        Attribute::new("name", "quickstart"),
        Attribute::new("dest_ip", "127.0.0.1"),
        Attribute::new("dest_port", 4317_u16),
        Attribute::new("direction", direction),
    ]
}

fn resource() -> Vec<(String, String)> {
    vec![("host.name".to_owned(), "web 1".to_owned()), ("service.name".to_owned(), "vms-agent".to_owned())]
}

fn cycle_duration() -> DataPoint {
    let Kind::Histogram(bounds) = CYCLE_DURATION.kind else { panic!("not a histogram") };
    let mut histogram = Histogram::new(bounds);
    histogram.record(bounds, 0.25);
    histogram.record(bounds, 0.5);
    DataPoint { value: Value::Histogram(histogram), ..point(&CYCLE_DURATION, &[], None, 0) }
}

#[test]
fn a_link_is_told_line_by_line_and_the_agent_itself_in_few() {
    let forward = link("forward");
    let points = [
        point(&UP, &forward, None, 1),
        point(&STATUS, &forward, Some(Extra { key: "state", value: "up" }), 1),
        point(&STATUS, &forward, Some(Extra { key: "state", value: "down" }), 0),
        point(&CONNECTIONS, &forward, None, 12),
        point(&PERMISSION_MISSING, &[], Some(Extra { key: "capability", value: "CAP_SYS_PTRACE" }), 0),
        point(&MEASUREMENTS, &[], Some(Extra { key: "outcome", value: "ok" }), 41),
        cycle_duration(),
        DataPoint {
            value: Value::Double(0.125),
            ..point(&PROCESS_CPU_TIME, &[], Some(Extra { key: "cpu.mode", value: "user" }), 0)
        },
    ];
    let mut console = Console::new(anstream::StripStream::new(Vec::new()), resource());
    console.export(&points).unwrap();
    console.export(&points[..1]).unwrap();
    assert_snapshot!(String::from_utf8(console.out.into_inner()).unwrap(), @r#"
    resource  host.name="web 1"  service.name=vms-agent
    date  2026-08-02
    TIME (UTC)    METRIC                          VALUE  UNIT          ATTRIBUTES
    00:00:00.025  vms.connection_mon.up               1                name=quickstart dest_ip=127.0.0.1 dest_port=4317 direction=forward
    00:00:00.025  vms.connection_mon.status           1                name=quickstart dest_ip=127.0.0.1 dest_port=4317 direction=forward state=up
    00:00:00.025  vms.connection_mon.status           0                name=quickstart dest_ip=127.0.0.1 dest_port=4317 direction=forward state=down
    00:00:00.025  vms.connection_mon.connections     12  {connection}  name=quickstart dest_ip=127.0.0.1 dest_port=4317 direction=forward
    self  vms.agent.permission_missing{capability=CAP_SYS_PTRACE}=0
          vms.agent.measurements{outcome=ok}=41 {measurement}  vms.agent.cycle.duration=count:2,sum:0.75 s
          process.cpu.time{cpu.mode=user}=0.125 s

    00:00:00.025  vms.connection_mon.up               1                name=quickstart dest_ip=127.0.0.1 dest_port=4317 direction=forward
    "#);
}

#[test]
fn a_new_resource_and_a_new_day_are_announced_and_the_same_ones_are_not() {
    let mut printer = PointPrinter::new();
    let mut out = Vec::new();
    let day = |days: u64| PointRow { time: Some(at(days * 86_400)), ..row("m", PointValue::Double(0.5)) };
    let other = [("service.name".to_owned(), "other".to_owned())];
    for (resource, rows) in [
        (resource().as_slice(), vec![day(0), day(0), day(1)]),
        (resource().as_slice(), vec![day(1)]),
        (other.as_slice(), vec![day(1)]),
    ] {
        printer.begin(&mut out, resource).unwrap();
        printer.write_points(&mut out, &rows).unwrap();
    }
    assert_snapshot!(String::from_utf8(anstream::adapter::strip_bytes(&out).into_vec()).unwrap(), @r#"
    resource  host.name="web 1"  service.name=vms-agent
    date  1970-01-01
    TIME (UTC)    METRIC  VALUE  UNIT  ATTRIBUTES
    00:00:00.025  m         0.5
    00:00:00.025  m         0.5
    date  1970-01-02
    00:00:00.025  m         0.5

    00:00:00.025  m         0.5

    resource  service.name=other
    00:00:00.025  m         0.5
    "#);
}

fn row(metric: &str, value: PointValue) -> PointRow {
    PointRow { time: None, metric: metric.to_owned(), value, unit: "1".to_owned(), attributes: Vec::new() }
}

#[test]
fn color_follows_what_a_value_means() {
    let state = |state: &str, value| PointRow {
        attributes: vec![("state".to_owned(), state.to_owned())],
        ..row(STATUS.name, PointValue::Int(value))
    };
    assert_eq!(tone(&row(UP.name, PointValue::Int(1))), Tone::Ok);
    assert_eq!(tone(&row(UP.name, PointValue::Int(0))), Tone::Error);
    assert_eq!(tone(&state("up", 1)), Tone::Ok);
    assert_eq!(tone(&state("down", 1)), Tone::Error);
    assert_eq!(tone(&state("down", 0)), Tone::Dim);
    assert_eq!(tone(&row(DOWN_REASON.name, PointValue::Int(1))), Tone::Error);
    assert_eq!(tone(&row(UNATTRIBUTED.name, PointValue::Int(0))), Tone::Plain);
    assert_eq!(tone(&row(UNATTRIBUTED.name, PointValue::Int(2))), Tone::Warn);
}

#[test]
fn a_missing_permission_is_no_background() {
    assert!(is_background(&row(PERMISSION_MISSING.name, PointValue::Int(0))));
    assert!(!is_background(&row(PERMISSION_MISSING.name, PointValue::Int(1))));
}

#[test]
fn times_that_cannot_be_written_are_a_dash() {
    assert_eq!(time_of_day(Some(at(3_661))), "01:01:01.025");
    assert_eq!(time_of_day(None), "-");
    assert_eq!(time_of_day(Some(UNIX_EPOCH - Duration::from_secs(1))), "-");
    assert_eq!(time_of_day(Some(at(253_402_300_799))), "23:59:59.025");
    assert_eq!(time_of_day(Some(at(253_402_300_800))), "-");
}

#[test]
fn the_whole_cycle_goes_out_in_one_write() {
    #[derive(Default)]
    struct Writes(usize);
    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut console = Console::new(Writes::default(), resource());
    let attributes = link("forward");
    console.export(&vec![point(&UP, &attributes, None, 1); 50]).unwrap();
    assert_eq!(console.out.0, 1);
}
