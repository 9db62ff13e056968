//! The host that the agent watches: links that are up or down as this program made them, and connections that come and go.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use vms_agent_tests::deadline::unix_nanoseconds;
use vms_agent_tests::peer::Listener;
use vms_agent_tests::{Namespace, Peer, Scene, Stream};

/// Links of one pair of processes.
const LINKS_OF_PAIR: usize = 20;
/// How long a measurement and a change may take to meet, before and after the change: nothing is claimed of points in
/// that time.
const BLUR: Duration = Duration::from_millis(1500);

/// All of it.
pub(crate) struct World {
    pairs: Vec<Pair>,
    links: Vec<Link>,
    noise: (Peer, Peer, Listener),
    /// Unwatched connections that stand, oldest first.
    standing: std::collections::VecDeque<(Stream, Stream)>,
    /// Connections made so far.
    pub(crate) made: u64,
    rng: Rng,
}

struct Pair {
    server: Peer,
    client: Peer,
}

struct Link {
    listener: Listener,
    ends: Option<(Stream, Stream)>,
    /// When it changed, from the order to its end, and to what.
    changes: Vec<(u64, u64, bool)>,
    /// When its connection was replaced.
    replaced: Vec<u64>,
    down_since: u64,
}

impl World {
    /// So many links, all of them up.
    pub(crate) fn new(scene: &Scene, host: &Namespace, links: usize, seed: u64) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let (client, server) = (scene.program("svc"), scene.program("far"));
        let mut world = Self {
            pairs: (0..links.div_ceil(LINKS_OF_PAIR))
                .map(|_| Pair { server: server.start(host), client: client.start(host) })
                .collect(),
            links: Vec::new(),
            noise: {
                let mut far = scene.program("noise").start(host);
                let listener = far.listen(address);
                (scene.program("noise").start(host), far, listener)
            },
            standing: std::collections::VecDeque::new(),
            made: 0,
            rng: Rng::with_seed(seed),
        };
        for number in 0..links {
            let listener = world.pairs[number / LINKS_OF_PAIR].server.listen(address);
            world.links.push(Link {
                listener,
                ends: None,
                changes: Vec::new(),
                replaced: Vec::new(),
                down_since: 0,
            });
            world.connect(number);
        }
        world
    }

    /// Where a link leads.
    pub(crate) fn service(&self, link: usize) -> SocketAddr {
        self.links[link].listener.address
    }

    /// A twentieth of a second's worth of changes.
    pub(crate) fn tick(&mut self) {
        for _ in 0..4 {
            self.make_noise();
        }
        let link = self.rng.usize(..self.links.len());
        match self.links[link].ends {
            // The connection is replaced; the link is up all the time.
            Some(old) if self.rng.u32(..100) < 97 => {
                self.dial(link);
                self.close(link, old);
                self.links[link].replaced.push(unix_nanoseconds());
            }
            Some(old) => {
                let began = unix_nanoseconds();
                self.links[link].ends = None;
                self.close(link, old);
                let now = unix_nanoseconds();
                self.links[link].changes.push((began, now, false));
                self.links[link].down_since = now;
            }
            None => {
                let down = Duration::from_nanos(unix_nanoseconds() - self.links[link].down_since);
                if down > Duration::from_secs(3) {
                    self.connect(link);
                }
            }
        }
    }

    /// Whether a link was up at a moment, where that can be known.
    pub(crate) fn was_up(&self, link: usize, time: u64) -> Option<bool> {
        let blur = u64::try_from(BLUR.as_nanos()).ok()?;
        let mut up = None;
        for (began, ended, now_up) in &self.links[link].changes {
            if time + blur < *began {
                break;
            }
            up = (time > ended + blur).then_some(*now_up);
        }
        up
    }

    /// When a link changed, around a moment.
    pub(crate) fn changes_near(&self, link: usize, time: u64) -> Vec<u64> {
        near(self.links[link].changes.iter().map(|(_, ended, _)| *ended), time)
    }

    /// When a link's connection was replaced, around a moment.
    pub(crate) fn replacements_near(&self, link: usize, time: u64) -> Vec<u64> {
        near(self.links[link].replaced.iter().copied(), time)
    }

    /// How often links went down.
    pub(crate) fn times_down(&self) -> usize {
        self.links.iter().flat_map(|link| &link.changes).filter(|(_, _, up)| !up).count()
    }

    fn connect(&mut self, link: usize) {
        let began = unix_nanoseconds();
        self.dial(link);
        self.links[link].changes.push((began, unix_nanoseconds(), true));
    }

    fn dial(&mut self, link: usize) {
        let Pair { server, client } = &mut self.pairs[link / LINKS_OF_PAIR];
        let listener = self.links[link].listener;
        let here = client.connect(listener.address);
        self.links[link].ends = Some((here, server.accept(listener)));
        self.made += 1;
    }

    fn close(&mut self, link: usize, (here, there): (Stream, Stream)) {
        let Pair { server, client } = &mut self.pairs[link / LINKS_OF_PAIR];
        client.close(here);
        server.close(there);
    }

    fn make_noise(&mut self) {
        let (near, far, listener) = &mut self.noise;
        let here = near.connect(listener.address);
        self.standing.push_back((here, far.accept(*listener)));
        self.made += 1;
        if self.standing.len() > 200
            && let Some((here, there)) = self.standing.pop_front()
        {
            near.close(here);
            far.close(there);
        }
    }
}

/// The moments within ten seconds of another.
fn near(moments: impl Iterator<Item = u64>, time: u64) -> Vec<u64> {
    moments.filter(|moment| moment.abs_diff(time) < 10_000_000_000).collect()
}
