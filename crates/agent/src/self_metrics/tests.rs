use super::*;

#[test]
fn every_self_metric_has_points_and_only_its_own_attributes() {
    let mut metrics = SelfMetrics::new(SystemTime::UNIX_EPOCH);
    metrics.count_cycle(Duration::from_millis(3), true, 2);
    metrics.count_reload(false);
    let export = ExportCounts {
        component: "otlp_grpc_metric_exporter",
        dropped: [("full".to_owned(), 7)].into(),
        spool: Some(SpoolStats::default()),
        ..ExportCounts::default()
    };
    let outcomes = Outcomes { ok: 1, permission_missing: 2, failed: 3 };
    let points = metrics.points(SystemTime::UNIX_EPOCH, outcomes, &Effort::default(), &export, read_usage());
    let is_of_probes = |name: &str| {
        ["vms.connection_mon.", "vms.connection.", "vms.process_mon.", "vms.discovery."]
            .iter()
            .any(|own| name.starts_with(own))
    };
    // Of permissions the monitor tells, of the age of its data a scrape.
    let others = [&metric::PERMISSION_MISSING, &metric::SCRAPE_DATA_AGE];
    for metric in metric::ALL.iter().filter(|metric| !is_of_probes(metric.name) && !others.contains(metric)) {
        let of: Vec<&DataPoint> = points.iter().filter(|point| point.metric == *metric).collect();
        assert!(!of.is_empty(), "{} has no point", metric.name);
        for point in of {
            assert_eq!(point.start.is_some(), metric.kind != Kind::Gauge, "{}", metric.name);
            for attribute in point.attributes.iter() {
                assert!(metric.attributes.contains(&attribute.key), "{} {}", metric.name, attribute.key);
            }
        }
    }
}

#[test]
fn sources_that_no_series_tells_of_are_told_as_a_number() {
    let effort = Effort { unreported: 17, ..Effort::default() };
    let metrics = SelfMetrics::new(SystemTime::UNIX_EPOCH);
    let points =
        metrics.points(SystemTime::UNIX_EPOCH, Outcomes::default(), &effort, &ExportCounts::default(), None);
    let told = points.iter().find(|point| point.metric == &metric::UNREPORTED).unwrap();
    assert_eq!(told.value, Value::Int(17));
}

#[test]
fn this_process_uses_memory() {
    let usage = read_usage().unwrap();
    assert!(usage.resident_bytes > 100_000, "{usage:?}");
}
