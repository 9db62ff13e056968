//! Destinations that are translated on their way (NAT): which service a socket belongs to whose endpoints are others.
//!
//! The client's socket keeps the address that it asked for, so a link is seen there as it is configured. The server's has
//! the address to which that was translated, and only the kernel that translates knows that the two are one connection.

use std::collections::HashSet;

use crate::address::Endpoint;
use crate::connection::Connection;

/// Endpoints that services are translated to, of all services of one look together: each is asked for in the dump.
pub const MAX_BACKENDS: usize = 4_096;

/// One connection whose destination is translated, with the endpoints of both of its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Translation {
    /// The endpoint to which the service is translated: local on the server's socket.
    pub backend: Endpoint,
    /// The client as the server sees it, which is another where the source is translated as well: remote on the server's
    /// socket.
    pub peer: Endpoint,
    /// The service that was asked for: remote on the client's socket.
    pub service: Endpoint,
    /// The client as it sees itself: local on the client's socket.
    pub source: Endpoint,
}

/// The translations of some services at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translations {
    /// Sorted, each once: by the endpoints of the server's socket first.
    by_server: Vec<Translation>,
    /// Places in that list, sorted by the endpoints of the client's socket.
    by_client: Vec<u32>,
    /// The endpoints that services are translated to, sorted, each once.
    backends: Vec<Endpoint>,
}

impl Translations {
    /// Brings translations into an order in which they are found quickly.
    #[must_use]
    pub fn new(mut translations: Vec<Translation>) -> Self {
        translations.sort_unstable();
        translations.dedup();
        let mut backends: Vec<Endpoint> =
            translations.iter().map(|translation| translation.backend).collect();
        backends.dedup();
        let mut by_client: Vec<u32> = (0..).take(translations.len()).collect();
        by_client.sort_unstable_by_key(|place| client_end(&translations, *place));
        Self { by_server: translations, by_client, backends }
    }

    /// The same without what is about one of these pairs of a local and a remote endpoint, and the services that it was about.
    #[must_use]
    pub fn without(&self, pairs: &HashSet<(Endpoint, Endpoint)>) -> (Self, HashSet<Endpoint>) {
        let is_of_others = |translation: &Translation| {
            let Translation { backend, peer, service, source } = *translation;
            !pairs.contains(&(backend, peer)) && !pairs.contains(&(source, service))
        };
        let (others, forgotten): (Vec<Translation>, Vec<Translation>) =
            self.by_server.iter().partition(|translation| is_of_others(translation));
        (Self::new(others), forgotten.into_iter().map(|translation| translation.service).collect())
    }

    /// Nothing, and the services that this was about.
    #[must_use]
    pub fn without_any(&self) -> (Self, HashSet<Endpoint>) {
        (Self::default(), self.by_server.iter().map(|translation| translation.service).collect())
    }

    /// The endpoints that services are translated to, sorted, each once.
    #[must_use]
    pub fn backends(&self) -> &[Endpoint] {
        &self.backends
    }

    /// The services, as a rule one at most, that the client of this connection asked for, whose server end it is. What no
    /// translation vouches for has none: a client may as well have asked for the local endpoint itself.
    pub fn services(&self, connection: &Connection) -> impl Iterator<Item = Endpoint> {
        let wanted = (connection.local, connection.remote);
        let first =
            self.by_server.partition_point(|translation| (translation.backend, translation.peer) < wanted);
        let found = self.by_server.get(first..).unwrap_or_default().iter();
        let found = found.take_while(move |translation| (translation.backend, translation.peer) == wanted);
        // The same service may be asked for by several sources: sorted, they are neighbors.
        let mut before = None;
        found
            .map(|translation| translation.service)
            .filter(move |service| before.replace(*service) != Some(*service))
    }

    /// The endpoint to which the remote end of this connection is translated, whose client end it is.
    #[must_use]
    pub fn backend(&self, connection: &Connection) -> Option<Endpoint> {
        let wanted = Some((connection.local, connection.remote));
        let first = self.by_client.partition_point(|place| client_end(&self.by_server, *place) < wanted);
        let place = usize::try_from(*self.by_client.get(first)?).ok()?;
        let found = self.by_server.get(place)?;
        (Some((found.source, found.service)) == wanted).then_some(found.backend)
    }
}

fn client_end(translations: &[Translation], place: u32) -> Option<(Endpoint, Endpoint)> {
    let translation = translations.get(usize::try_from(place).ok()?)?;
    Some((translation.source, translation.service))
}

#[cfg(test)]
mod tests;
