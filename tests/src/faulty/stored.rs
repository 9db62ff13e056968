//! What arrived, and when.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;

use super::Fate;
use crate::deadline::{now, unix_nanoseconds};
use crate::otlp::{Point, Points, flatten};

/// A request that was stored.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// When, in nanoseconds since 1970.
    pub unix: u64,
    /// Its points.
    pub points: Vec<Point>,
}

/// What collectors stored: clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct Stored(Arc<Mutex<Vec<Arrival>>>);

impl Stored {
    /// What keeps a request here.
    pub fn keeper(&self) -> impl FnMut(Fate, ExportMetricsServiceRequest) + Send + use<> {
        let arrivals = Arc::clone(&self.0);
        move |fate, request| {
            if fate == Fate::Stored {
                let arrival = Arrival { at: now(), unix: unix_nanoseconds(), points: flat(&request) };
                arrivals.lock().expect("nobody panics").push(arrival);
            }
        }
    }

    /// The requests, in the order of their arrival.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.0.lock().expect("nobody panics").clone()
    }

    /// The request that arrived last.
    #[must_use]
    pub fn last(&self) -> Option<Arrival> {
        self.0.lock().expect("nobody panics").last().cloned()
    }
}

impl Points for Stored {
    fn points(&self) -> Vec<Point> {
        self.0.lock().expect("nobody panics").iter().flat_map(|arrival| arrival.points.clone()).collect()
    }
}

/// The points of a request, without their resource.
pub(crate) fn flat(request: &ExportMetricsServiceRequest) -> Vec<Point> {
    let mut points = Vec::new();
    for resource in &request.resource_metrics {
        for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            flatten(&[], metric, &mut points);
        }
    }
    points
}
