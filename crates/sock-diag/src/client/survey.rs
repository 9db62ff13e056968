//! A survey: one walk for each table that can have what is asked for.

use std::ops::ControlFlow;

use vms_core::socket::{Socket, SocketFilter, SocketSurvey, Transport as Protocol};
use vms_netlink::{ATTEMPTS, Transport};

use super::{Client, EARLIER_PLANS, Outcome, conclude};
use crate::bytecode::Precision;
use crate::codec::{DumpRequest, ServingSockets};
use crate::error::Error;
use crate::plan::Experience;
use crate::walk::{SurveyPlan, Walk};

impl<T: Transport> Client<T> {
    /// Without clauses it is a dump.
    pub(super) fn survey(
        &mut self,
        filter: &SocketFilter<'_>,
        host_sockets: impl FnOnce() -> u32,
    ) -> Result<SocketSurvey<Error>, Error> {
        if filter.clauses.all().is_empty() {
            let dumped = filter.connections.map(|connections| self.dump(connections, host_sockets));
            let connections = dumped.transpose()?.unwrap_or_default();
            return Ok(SocketSurvey { connections, ..SocketSurvey::default() });
        }
        let mut plan = self.take_survey_plan(filter);
        let surveyed = self.survey_by(&mut plan, filter, host_sockets());
        self.surveys.insert(0, plan);
        self.surveys.truncate(1 + EARLIER_PLANS);
        Ok(surveyed)
    }

    /// Compiles, unless the same was asked for before.
    fn take_survey_plan(&mut self, filter: &SocketFilter<'_>) -> SurveyPlan {
        match self.surveys.iter().position(|plan| plan.fits(filter)) {
            Some(index) => self.surveys.remove(index),
            None => SurveyPlan::new(filter),
        }
    }

    /// What one protocol does not tell is nothing to the other.
    fn survey_by(
        &mut self,
        plan: &mut SurveyPlan,
        filter: &SocketFilter<'_>,
        host_sockets: u32,
    ) -> SocketSurvey<Error> {
        let mut found = SocketSurvey::default();
        for index in 0..plan.walks().len() {
            let Some(transport) = plan.walks().get(index).map(|walk| walk.table.transport()) else {
                continue;
            };
            if found.untold.contains_key(&transport) {
                continue;
            }
            if let Err(error) = self.walk(plan, index, filter, host_sockets, &mut found) {
                found.sockets.retain(|socket| socket.transport != transport);
                if transport == Protocol::Tcp {
                    found.connections.clear();
                }
                found.untold.insert(transport, error);
            }
        }
        // A socket comes twice where it moves while tables are walked, from one to another or within one.
        found.connections.sort_unstable_by_key(|connection| connection.cookie);
        found.connections.dedup_by_key(|connection| connection.cookie);
        found.sockets.sort_unstable_by_key(|socket| socket.connection.cookie);
        found.sockets.dedup_by_key(|socket| socket.connection.cookie);
        found
    }

    fn walk(
        &mut self,
        plan: &mut SurveyPlan,
        index: usize,
        filter: &SocketFilter<'_>,
        host_sockets: u32,
        found: &mut SocketSurvey<Error>,
    ) -> Result<(), Error> {
        let found_before = (found.connections.len(), found.sockets.len());
        for _attempt in 0..ATTEMPTS {
            found.connections.truncate(found_before.0);
            found.sockets.truncate(found_before.1);
            let Some(walk) = plan.walks().get(index) else { return Ok(()) };
            let host_sockets = walk.expected_sockets(host_sockets);
            let precision = walk.programs.choose(host_sockets, walk.counted);
            let outcome = self.exchange_walk(plan, walk, filter, precision, found)?;
            let Some(walk) = plan.walks_mut().get_mut(index) else { return Ok(()) };
            match outcome {
                Outcome::Complete { told } => {
                    let experience = Experience { told, host_sockets };
                    match precision {
                        None => walk.counted = Some(experience),
                        // What is wanted would be told with any program: that says nothing against this one.
                        Some(Precision::Ports) => {
                            let wanted = [
                                found.connections.len() - found_before.0,
                                found.sockets.len() - found_before.1,
                            ];
                            let wanted = u32::try_from(wanted.into_iter().max().unwrap_or(0)).unwrap_or(told);
                            let told = told.saturating_sub(wanted);
                            walk.programs.learn(Experience { told, ..experience });
                        }
                        Some(Precision::Exact) => {}
                    }
                    return Ok(());
                }
                Outcome::Interrupted => {}
                Outcome::ProgramRefused => walk.programs.discard(precision),
            }
        }
        Err(Error::Interrupted { attempts: ATTEMPTS })
    }

    /// One request and all of its reply.
    pub(super) fn exchange_walk(
        &mut self,
        plan: &SurveyPlan,
        walk: &Walk,
        filter: &SocketFilter<'_>,
        precision: Option<Precision>,
        found: &mut SocketSurvey<Error>,
    ) -> Result<Outcome, Error> {
        let (transport, family, states) = (walk.table.transport(), walk.family, walk.states);
        let program = walk.programs.program(precision);
        let room = self.room;
        let ended = self.exchange.dump::<ServingSockets, _, _>(
            &mut self.scope.line,
            room.told,
            |sequence, out| DumpRequest { sequence, transport, family, states, program }.encode(out),
            |(told, families)| {
                // The program may have let through more than was asked for, or been for another clause.
                let of_links = filter.connections.filter(|_| walk.has_links && plan.has_port_of(&told));
                if of_links.is_some_and(|connections| connections.matches(&told)) {
                    if found.connections.len() >= room.found {
                        return ControlFlow::Break(Error::TooMany);
                    }
                    found.connections.push(told);
                }
                let socket = Socket { transport, families, connection: walk.refine(told) };
                if filter.clauses.want(&socket) {
                    if found.sockets.len() >= room.found {
                        return ControlFlow::Break(Error::TooMany);
                    }
                    found.sockets.push(socket);
                }
                ControlFlow::Continue(())
            },
        )?;
        conclude(ended, transport, program)
    }
}
