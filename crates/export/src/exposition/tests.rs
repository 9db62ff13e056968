use std::time::SystemTime;

use vms_core::metric::{self, AttributeSet, Extra, Histogram};

use super::*;

fn point(metric: &'static Metric, attributes: &[(&'static str, &str)], value: Value) -> DataPoint {
    let attributes: Vec<Attribute> =
        attributes.iter().map(|(key, value)| Attribute::new(key, *value)).collect();
    DataPoint {
        metric,
        attributes: Arc::new(AttributeSet::new(attributes)),
        extra: None,
        time: SystemTime::UNIX_EPOCH,
        start: None,
        value,
    }
}

fn written(format: Format, points: Vec<DataPoint>) -> String {
    encode(format, None, vec![Arc::new(points)], Names::Own).unwrap()
}

/// A point of each metric that there is.
fn one_of_each() -> Vec<DataPoint> {
    let value = |metric: &Metric| match metric.kind {
        Kind::Histogram(bounds) => Value::Histogram(Histogram::new(bounds)),
        _ => Value::Int(1),
    };
    metric::ALL.iter().map(|metric| point(metric, &[], value(metric))).collect()
}

#[test]
fn names_say_the_unit_and_that_a_counter_is_one() {
    let text = written(Format::Text, one_of_each());
    let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(
        types,
        [
            "otel_sdk_exporter_metric_data_point_exported_total counter",
            "process_cpu_time_seconds_total counter",
            "process_memory_usage_bytes gauge",
            "process_unix_file_descriptor_count gauge",
            "vms_agent_config_reloads_total counter",
            "vms_agent_connections_tracked gauge",
            "vms_agent_connections_untracked gauge",
            "vms_agent_cycle_duration_seconds histogram",
            "vms_agent_cycles_late_total counter",
            "vms_agent_cycles_skipped_total counter",
            "vms_agent_export_queue_points gauge",
            "vms_agent_export_queue_size_bytes gauge",
            "vms_agent_export_retried_total counter",
            "vms_agent_measurements_total counter",
            "vms_agent_permission_missing_ratio gauge",
            "vms_agent_scrape_data_age_seconds gauge",
            "vms_agent_sources_unreported gauge",
            "vms_agent_spool_oldest_age_seconds gauge",
            "vms_agent_spool_points gauge",
            "vms_agent_spool_replayed_total counter",
            "vms_agent_spool_requests gauge",
            "vms_agent_spool_size_bytes gauge",
            "vms_agent_walk_cpu_time_seconds_total counter",
            "vms_agent_walks_total counter",
            "vms_connection_count gauge",
            "vms_connection_resolved_seconds gauge",
            "vms_connection_status_ratio gauge",
            "vms_connection_unattributed gauge",
            "vms_connection_up_ratio gauge",
            "vms_connection_mon_ack_wait_seconds gauge",
            "vms_connection_mon_attribution gauge",
            "vms_connection_mon_connection_age_seconds gauge",
            "vms_connection_mon_connections gauge",
            "vms_connection_mon_down_reason_ratio gauge",
            "vms_connection_mon_io_bytes_total counter",
            "vms_connection_mon_last_ack_age_seconds gauge",
            "vms_connection_mon_last_data_age_seconds gauge",
            "vms_connection_mon_queued_bytes gauge",
            "vms_connection_mon_reconnects_total counter",
            "vms_connection_mon_retransmits_total counter",
            "vms_connection_mon_rtt_seconds gauge",
            "vms_connection_mon_status_ratio gauge",
            "vms_connection_mon_translated gauge",
            "vms_connection_mon_unacknowledged_bytes gauge",
            "vms_connection_mon_unattributed gauge",
            "vms_connection_mon_up_ratio gauge",
            "vms_connection_mon_walk_age_seconds gauge",
            "vms_discovery_connections gauge",
            "vms_discovery_edges gauge",
            "vms_discovery_endpoints gauge",
            "vms_discovery_established gauge",
            "vms_discovery_listening gauge",
            "vms_discovery_omitted gauge",
            "vms_discovery_unattributed gauge",
            "vms_process_mon_count gauge",
            "vms_process_mon_cpu_time_seconds_total counter",
            "vms_process_mon_memory_usage_bytes gauge",
            "vms_process_mon_memory_virtual_bytes gauge",
            "vms_process_mon_possible gauge",
            "vms_process_mon_running_ratio gauge",
        ]
    );
}

#[test]
fn every_metric_has_a_unit_that_is_known_and_keys_that_labels_may_have() {
    let plain =
        |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c));
    for metric in metric::ALL {
        let counts = metric.unit.starts_with('{') && metric.unit.ends_with('}');
        assert!(counts || unit(metric).is_some(), "{}: {}", metric.name, metric.unit);
        assert!(plain(metric.name), "{}", metric.name);
        let mut labels: Vec<String> = metric.attributes.iter().map(|key| label_name(key)).collect();
        labels.sort();
        labels.dedup();
        assert_eq!(labels.len(), metric.attributes.len(), "{}", metric.name);
        for key in metric.attributes {
            assert!(plain(key) && label_name(key) == key.replace('.', "_"), "{}: {key}", metric.name);
        }
    }
}

#[test]
fn open_metrics_names_a_counter_without_its_suffix_and_tells_units() {
    let io = point(&metric::IO, &[("name", "link"), ("network.io.direction", "transmit")], Value::Int(7));
    let text = written(Format::OpenMetrics, vec![io]);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
    assert_eq!(
        lines,
        [
            "# TYPE vms_connection_mon_io_bytes counter",
            "# UNIT vms_connection_mon_io_bytes bytes",
            "vms_connection_mon_io_bytes_total{name=\"link\",network_io_direction=\"transmit\"} 7",
        ]
    );
    assert_eq!((Format::OpenMetrics.end(), Format::Text.end()), ("# EOF\n", ""));
}

#[test]
fn values_of_labels_are_escaped_and_numbers_among_them_are_text() {
    let mut status = point(&metric::STATUS, &[("name", "a\"b\\c\nd}é")], Value::Int(0));
    status.extra = Some(Extra { key: "state", value: "up" });
    let mut up = point(&metric::UP, &[], Value::Int(1));
    up.attributes = Arc::new(AttributeSet::new([Attribute::new("dest_port", 443_u16)]));
    for format in [Format::OpenMetrics, Format::Text] {
        let text = written(format, vec![status.clone(), up.clone()]);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "vms_connection_mon_status_ratio{name=\"a\\\"b\\\\c\\nd}é\",state=\"up\"} 0",
                "vms_connection_mon_up_ratio{dest_port=\"443\"} 1",
            ]
        );
    }
}

#[test]
fn buckets_are_cumulative_and_end_with_all() {
    let Kind::Histogram(bounds) = metric::CYCLE_DURATION.kind else { panic!() };
    let mut histogram = Histogram::new(bounds);
    for value in [0.000_1, 0.000_7, 0.000_8, 9.0] {
        histogram.record(bounds, value);
    }
    for format in [Format::OpenMetrics, Format::Text] {
        let text =
            written(format, vec![point(&metric::CYCLE_DURATION, &[], Value::Histogram(histogram.clone()))]);
        let counts: Vec<u64> = text
            .lines()
            .filter(|line| line.starts_with("vms_agent_cycle_duration_seconds_bucket{le="))
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(counts.len(), bounds.len() + 1, "{text}");
        assert_eq!(&counts[..3], [1, 3, 3], "{text}");
        assert!(counts.is_sorted(), "{text}");
        assert!(text.contains("vms_agent_cycle_duration_seconds_bucket{le=\"+Inf\"} 4\n"), "{text}");
        assert!(text.contains("vms_agent_cycle_duration_seconds_count 4\n"), "{text}");
    }
}

#[test]
fn the_resource_is_what_target_info_says_and_no_key_of_it_breaks_the_text() {
    let attributes = [
        ("service.name", "vms-agent"),
        ("a.b", "one"),
        ("a-b", "two"),
        ("1st \"{\n", "x\ny"),
        ("service.name", "other"),
    ];
    let target = Arc::new(Target::new(attributes.map(|(key, value)| (key.to_owned(), value.to_owned()))));
    for (format, kind) in [(Format::OpenMetrics, "target info"), (Format::Text, "target_info gauge")] {
        let text = encode(format, Some(Arc::clone(&target)), Vec::new(), Names::Own).unwrap();
        assert!(text.contains(&format!("# TYPE {kind}\n")), "{text}");
        let info = "target_info{_1st____=\"x\\ny\",a_b=\"two;one\",service_name=\"other\"} 1\n";
        assert!(text.ends_with(info), "{text}");
    }
}

#[test]
fn the_points_of_a_metric_stand_together_wherever_they_come_from() {
    let up = |name| point(&metric::UP, &[("name", name)], Value::Int(1));
    let down = point(&metric::CONNECTIONS, &[("name", "a")], Value::Int(2));
    let text = encode(
        Format::Text,
        None,
        vec![Arc::new(vec![up("a"), down]), Arc::new(Vec::new()), Arc::new(vec![up("b")])],
        Names::Own,
    )
    .unwrap();
    assert_eq!(text.matches("# TYPE vms_connection_mon_up_ratio gauge").count(), 1, "{text}");
    assert!(
        text.ends_with(
            "vms_connection_mon_up_ratio{name=\"a\"} 1\nvms_connection_mon_up_ratio{name=\"b\"} 1\n"
        ),
        "{text}"
    );
}

#[test]
fn open_metrics_is_for_who_asks_for_it_at_least_as_much_as_for_text() {
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    for (accept, wanted) in [
        (prometheus, Format::OpenMetrics),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("Application/OpenMetrics-Text ; q=0.3, text/plain;q=0.3", Format::OpenMetrics),
        ("application/openmetrics-text;q=0.2,text/plain;version=0.0.4", Format::Text),
        ("application/openmetrics-text;q=0", Format::Text),
        ("application/openmetrics-text;q=nonsense", Format::Text),
        ("*/*", Format::Text),
        ("", Format::Text),
        ("application/json", Format::Text),
    ] {
        assert_eq!(Format::negotiate([accept]), wanted, "{accept}");
    }
    assert_eq!(Format::negotiate(["text/html", "application/openmetrics-text"]), Format::OpenMetrics);
    assert_eq!(Format::negotiate([]), Format::Text);
}

#[test]
fn watches_are_found_under_the_names_of_cnxwatch_where_that_is_asked_for() {
    let grafana: &[(&'static str, &str)] = &[
        ("name", "hostname-grafana"),
        ("proto", "tcp6"),
        ("local_address", "::"),
        ("local_port", "3000"),
        ("states", "LISTEN"),
    ];
    let ssh: &[(&'static str, &str)] = &[
        ("name", "ssh"),
        ("proto", "tcp"),
        ("process_name", "ssh*"),
        ("remote_address", "127.0.0.1"),
        ("remote_port", "22"),
        ("states", "ESTABLISHED"),
    ];
    let udp: &[(&'static str, &str)] = &[("name", "dns"), ("proto", "udp"), ("states", "UNCONNECTED")];
    let by_family = Some(Extra { key: "network.type", value: "ipv4" });
    let points = || {
        vec![
            point(&metric::WATCH_COUNT, grafana, Value::Int(1)),
            point(&metric::WATCH_UP, grafana, Value::Int(1)),
            point(&metric::WATCH_COUNT, ssh, Value::Int(0)),
            point(&metric::WATCH_COUNT, udp, Value::Int(2)),
            DataPoint { extra: by_family, ..point(&metric::WATCH_COUNT, ssh, Value::Int(7)) },
        ]
    };
    for format in [Format::Text, Format::OpenMetrics] {
        let text = encode(format, None, vec![Arc::new(points())], Names::AlsoCnxwatch).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("connection_status")).collect();
        assert_eq!(
            lines,
            [
                r#"connection_status_count{dsthost="*",dstport="*",name="hostname-grafana",process="*",protocol="tcp6",srchost="::",srcport="3000",status="listen"} 1"#,
                r#"connection_status_count{dsthost="127.0.0.1",dstport="22",name="ssh",process="ssh*",protocol="tcp",srchost="*",srcport="*",status="established"} 0"#,
                r#"connection_status_count{dsthost="*",dstport="*",name="dns",process="*",protocol="udp",srchost="*",srcport="*",status="listen"} 2"#,
                r#"connection_status_up{dsthost="*",dstport="*",name="hostname-grafana",process="*",protocol="tcp6",srchost="::",srcport="3000",status="listen"} 1"#,
            ],
            "{text}"
        );
        assert!(text.contains("# TYPE connection_status_up gauge"), "{text}");
        assert!(text.contains("vms_connection_count"), "{text}");
    }
    assert!(!written(Format::Text, points()).contains("connection_status_"));
}
