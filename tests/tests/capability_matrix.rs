//! What an agent sees of whose links, by its user and its capabilities: tried in every combination. The golden file holds what
//! comes of it, and the README the same table.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use vms_agent_tests::skip::Need;
use vms_agent_tests::{
    AgentCommand, Cgroup, Link, Namespace, Privileges, Scene, config, environment, needs, probe,
};

/// Whose the processes are that are another user's.
const OTHER: u32 = 61_041;

/// Whom the agent runs as.
const AGENTS: [u32; 2] = [0, 65_534];

/// With which capabilities, as setpriv spells them and as the table does.
const CAPABILITIES: [(&[&str], &str); 6] = [
    (&[], "none"),
    (&["sys_ptrace"], "`SYS_PTRACE`"),
    (&["dac_read_search"], "`DAC_READ_SEARCH`"),
    (&["sys_ptrace", "dac_read_search"], "both"),
    (&["sys_ptrace", "dac_read_search", "sys_admin"], "both, `SYS_ADMIN`"),
    (&["sys_ptrace", "dac_read_search", "net_admin"], "both, `NET_ADMIN`"),
];

/// The exit status of `check` where it could not measure.
const COULD_NOT_MEASURE: i32 = 3;

/// Whose link it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Own,
    OtherUsers,
    NonDumpable,
    OtherNamespace,
    /// The same, of an agent that looks at all of them.
    AnyNamespace,
}

impl Holder {
    const ALL: [Self; 5] =
        [Self::Own, Self::OtherUsers, Self::NonDumpable, Self::OtherNamespace, Self::AnyNamespace];

    fn is_elsewhere(self) -> bool {
        matches!(self, Self::OtherNamespace | Self::AnyNamespace)
    }

    /// The head of its column.
    fn title(self) -> &'static str {
        match self {
            Self::Own => "its own user's process",
            Self::OtherUsers => "another user's",
            Self::NonDumpable => "its own user's, non-dumpable",
            Self::OtherNamespace => "its own user's, in another network namespace",
            Self::AnyNamespace => "the same, `namespaces: all`",
        }
    }
}

/// The connections of all holders, for an agent of one user.
struct World {
    scene: Scene,
    /// In whose order [`Holder::ALL`] is.
    links: Vec<Link>,
    _pod: Namespace,
    near: Namespace,
    _far: Namespace,
}

impl World {
    #[track_caller]
    fn of(agent: u32) -> Self {
        let (scene, (near, far)) = (Scene::new(), Namespace::pair());
        let pod = near.pod();
        let links = Holder::ALL.map(|holder| {
            let user = if holder == Holder::OtherUsers { OTHER } else { agent };
            let stem = format!("{holder:?}").to_lowercase();
            let host = if holder.is_elsewhere() { &pod } else { &near };
            // Whoever has more capabilities than the agent is out of its reach as well.
            let mut client = scene.program(&stem).user(user).powerless().start(host);
            let server = scene.program("far").start(if holder.is_elsewhere() { &pod } else { &far });
            let address = if holder.is_elsewhere() {
                SocketAddr::from(([127, 0, 0, 1], 0))
            } else {
                SocketAddr::new(far.ipv4(), 0)
            };
            if holder == Holder::NonDumpable {
                client.keep_to_itself();
            }
            Link::over(client, server, address, |listening| listening)
        });
        Self { scene, links: links.into(), _pod: pod, near, _far: far }
    }

    /// Such an agent, which looks for that link.
    #[track_caller]
    fn agent(
        &self,
        holder: Holder,
        link: &Link,
        agent: u32,
        capabilities: &'static [&'static str],
    ) -> AgentCommand<'_> {
        let name = self.scene.name(&format!("{holder:?}").to_lowercase());
        AgentCommand::new(&self.scene, &self.near)
            .config(&config(&[probe("link", &name, link.service())]))
            .privileges(Privileges::User(agent, capabilities))
    }

    /// What such an agent says of that link.
    #[track_caller]
    fn try_out(
        &self,
        holder: Holder,
        link: &Link,
        agent: u32,
        capabilities: &'static [&'static str],
    ) -> String {
        let command = self.agent(holder, link, agent, capabilities);
        let all = holder == Holder::AnyNamespace;
        let check = if all { command.variable("VMS_NAMESPACES", "all").check() } else { command.check() };
        if check.code == COULD_NOT_MEASURE {
            assert!(check.rows.is_empty() && check.stderr.contains("CAP_SYS_ADMIN"), "{check:#?}");
            return "not measured".to_owned();
        }
        let row = check.row();
        if row.is_up() {
            assert_eq!((row.unattributed, row.owner_pids()), (0, vec![link.client.pid()]), "{check:#?}");
            return "up".to_owned();
        }
        let reason = row.down_reason();
        assert_eq!(reason == "not_permitted", row.unattributed > 0, "flagged, and only then: {check:#?}");
        format!("`{reason}`")
    }
}

fn golden_file() -> PathBuf {
    environment::repository().join("tests/golden/permissions.md")
}

fn readme() -> PathBuf {
    environment::repository().join("README.md")
}

const BEGIN: &str = "<!-- permissions: the table below is tried out by a test, and written by it -->\n";

/// The table in a text, with what stands before and behind it.
#[track_caller]
fn split_table(text: &str) -> (&str, &str, &str) {
    let (before, rest) = text.split_once(BEGIN).expect("the mark is there");
    let end = rest.find("\n\n").expect("something follows the table") + 1;
    let (table, behind) = rest.split_at(end);
    (before, table, behind)
}

#[test]
fn what_is_seen_by_user_and_capabilities_is_as_the_table_says() {
    needs!(Need::Agent, Need::Tool("setpriv"));
    let mut table = "| agent |".to_owned();
    for holder in Holder::ALL {
        write!(table, " {} |", holder.title()).expect("a string takes everything");
    }
    table.push_str("\n|---|---|---|---|---|---|\n");
    for agent in AGENTS {
        let world = World::of(agent);
        for (capabilities, title) in CAPABILITIES {
            write!(table, "| uid {agent}, {title} |").expect("a string takes everything");
            for (holder, link) in Holder::ALL.into_iter().zip(&world.links) {
                let said = world.try_out(holder, link, agent, capabilities);
                write!(table, " {said} |").expect("a string takes everything");
            }
            table.push('\n');
        }
    }
    if environment::variable("UPDATE_GOLDEN").is_some() {
        fs::write(golden_file(), &table).expect("the golden file can be written");
        let text = fs::read_to_string(readme()).expect("the README can be read");
        let (before, _, behind) = split_table(&text);
        fs::write(readme(), [before, BEGIN, &table, behind].concat()).expect("the README can be written");
    }
    let golden = fs::read_to_string(golden_file()).expect("the golden file can be read");
    assert_eq!(table, golden, "UPDATE_GOLDEN=1 writes it anew, and the README");
}

#[test]
fn the_readme_has_the_same_table() {
    if environment::variable("UPDATE_GOLDEN").is_some() {
        return;
    }
    let golden = fs::read_to_string(golden_file()).expect("the golden file can be read");
    let text = fs::read_to_string(readme()).expect("the README can be read");
    assert_eq!(split_table(&text).1, golden);
}

#[test]
fn what_may_not_be_seen_can_be_inferred_whoever_the_agent_is() {
    needs!(Need::Agent, Need::Tool("setpriv"), Need::Cgroups);
    for agent in AGENTS {
        let (mut world, cgroups) = (World::of(agent), Holder::ALL.map(|_| Cgroup::new()));
        for (link, cgroup) in world.links.iter_mut().zip(&cgroups) {
            link.close();
            cgroup.take_in(&link.client);
            link.reconnect();
        }
        for (capabilities, title) in CAPABILITIES {
            for (holder, link) in Holder::ALL.into_iter().zip(&world.links) {
                if holder.is_elsewhere() {
                    continue;
                }
                let strict = world.agent(holder, link, agent, capabilities);
                let is_seen = strict.check().row().is_up();
                let check = strict.variable("VMS_ATTRIBUTION", "inferred").check();
                let by = if is_seen { "holder" } else { "cgroup" };
                let who = format!("uid {agent}, {title}, {holder:?}: {check:#?}");
                assert!(check.row().is_up(), "{who}");
                assert_eq!(check.row().attribution.as_deref(), Some(by), "{who}");
                assert_eq!(check.row().owner_pids(), [link.client.pid()], "{who}");
            }
        }
    }
}
