use super::*;

#[test]
fn names_are_unique_and_say_no_unit() {
    let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ALL.len());
}

#[test]
fn a_bound_belongs_to_the_bucket_below_it() {
    let bounds = [1.0, 2.0];
    let mut histogram = Histogram::new(&bounds);
    for value in [0.5, 1.0, 1.5, 2.0, 9.0] {
        histogram.record(&bounds, value);
    }
    assert_eq!(histogram.buckets, [2, 2, 1]);
    assert_eq!(histogram.count(), 5);
    assert!((histogram.sum - 14.0).abs() < f64::EPSILON);
}
