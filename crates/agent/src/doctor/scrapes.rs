//! Where metrics can be scraped, and by whom.

use std::net::{Ipv4Addr, SocketAddr};

use super::evaluate::{lack, ok};
use super::facts::Facts;
use super::{Area, Finding, Level};

pub(super) fn evaluate(facts: &Facts) -> Option<Finding> {
    let (address, listened) = facts.scrapes.as_ref()?;
    Some(match listened {
        Err(problem) => lack(
            Area::Collector,
            Level::Fail,
            format!("{address} cannot be listened on ({problem}): the agent does not start"),
            "correct prometheus.listen, or stop what listens there (`ss -ltnp` shows it)".to_owned(),
        ),
        Ok(()) if address.ip().is_loopback() => ok(
            Area::Collector,
            format!("metrics can be scraped at http://{address}/metrics, by anybody on this host"),
        ),
        Ok(()) => lack(
            Area::Collector,
            Level::Warn,
            format!(
                "metrics can be scraped at http://{address}/metrics by whoever reaches it: nobody is asked who he is"
            ),
            format!(
                "prometheus.listen: {}, or a firewall or network policy that lets Prometheus alone through",
                SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
            ),
        ),
    })
}
