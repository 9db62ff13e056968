//! Against a name server that says what a test wants.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;
use std::thread;

use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{RData, Record};
use tempfile::TempDir;
use vms_core::socket::Families;

use super::*;

/// Answers a question: records and a code, or nothing at all.
type Answers = dyn Fn(&str, RecordType) -> Option<(Vec<Record>, ResponseCode)> + Send + Sync;

/// A name server of this host, and the files that name it.
struct World {
    directory: TempDir,
    port: u16,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
}

impl World {
    fn new(
        answers: impl Fn(&str, RecordType) -> Option<(Vec<Record>, ResponseCode)> + Send + Sync + 'static,
    ) -> Self {
        let answers: Arc<Answers> = Arc::new(answers);
        // The same port twice is not always to be had.
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
                let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
                Some((udp, tcp))
            })
            .unwrap();
        let port = udp.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<(String, RecordType)>>> = Arc::default();
        {
            let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
            thread::spawn(move || {
                let mut query = [0; 4_096];
                while let Ok((length, client)) = udp.recv_from(&mut query) {
                    let Some(mut answer) = respond(&query[..length], answers.as_ref(), &asked) else {
                        continue;
                    };
                    // As a server does whose answer does not fit (RFC 1035, section 4.2.1).
                    if answer.to_vec().unwrap().len() > 512 {
                        answer.answers.clear();
                        answer.metadata.truncation = true;
                    }
                    udp.send_to(&answer.to_vec().unwrap(), client).ok();
                }
            });
        }
        {
            let asked = Arc::clone(&asked);
            thread::spawn(move || {
                for mut stream in tcp.incoming().flatten() {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut query).unwrap();
                        let Some(answer) = respond(&query, answers.as_ref(), &asked) else { continue };
                        let answer = answer.to_vec().unwrap();
                        stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
                        stream.write_all(&answer).unwrap();
                    }
                }
            });
        }
        let world = Self { directory: TempDir::new().unwrap(), port, asked };
        world.write("hosts", "127.0.0.1 localhost\n");
        world.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
        world
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn sources(&self) -> Sources {
        let files = Files {
            hosts: self.directory.path().join("hosts"),
            resolv_conf: self.directory.path().join("resolv.conf"),
        };
        Sources { port: self.port, ..Sources::new(files) }
    }

    fn ask(&self, name: &str) -> Result<Answer, Failure> {
        ask(&mut self.sources(), name, Families::BOTH)
    }

    fn asked(&self) -> Vec<(String, RecordType)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn ask(sources: &mut Sources, name: &str, families: Families) -> Result<Answer, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let query = NameQuery { name: name.parse().unwrap(), families };
    let source = sources.current();
    runtime.block_on(async { source.ask(&query).await })
}

fn respond(query: &[u8], answers: &Answers, asked: &Mutex<Vec<(String, RecordType)>>) -> Option<Message> {
    let query = Message::from_vec(query).unwrap();
    let question = query.queries.first().unwrap().clone();
    let (name, kind) = (question.name().to_ascii().to_ascii_lowercase(), question.query_type());
    asked.lock().unwrap().push((name.clone(), kind));
    let (records, code) = answers(&name, kind)?;
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.metadata.response_code = code;
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.add_query(question);
    answer.add_answers(records);
    Some(answer)
}

fn record(name: &str, ttl: u32, address: &str) -> Record {
    let data = match address.parse().unwrap() {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    };
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
}

/// Those records that were asked for, and none where there are none.
fn zone(records: Vec<Record>) -> impl Fn(&str, RecordType) -> Option<(Vec<Record>, ResponseCode)> {
    move |name, kind| {
        let of_name = |record: &&Record| record.name.to_ascii() == name;
        let there = records.iter().any(|record| of_name(&record));
        let wanted = records.iter().filter(of_name).filter(|record| record.record_type() == kind);
        let code = if there { ResponseCode::NoError } else { ResponseCode::NXDomain };
        Some((wanted.cloned().collect(), code))
    }
}

fn texts(answer: &Answer) -> Vec<String> {
    answer.addresses.iter().map(ToString::to_string).collect()
}

fn cause(outcome: Result<Answer, Failure>) -> String {
    match outcome.unwrap_err() {
        Failure::NoAddress(cause) => format!("none: {cause}"),
        Failure::Untold(cause) => format!("untold: {cause}"),
    }
}

#[test]
fn all_addresses_of_both_versions_are_told_for_the_shortest_of_their_times() {
    let world = World::new(zone(vec![
        record("db.test.", 300, "10.0.0.2"),
        record("db.test.", 300, "10.0.0.1"),
        record("db.test.", 20, "2001:db8::1"),
        record("other.test.", 1, "10.0.0.9"),
    ]));
    let answer = world.ask("db.test").unwrap();
    assert_eq!(texts(&answer), ["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
    assert!(answer.ttl <= Duration::from_secs(20) && answer.ttl >= Duration::from_secs(15), "{answer:?}");
    assert_eq!(texts(&world.ask("DB.test.").unwrap()), texts(&answer));
}

#[test]
fn an_alias_has_the_addresses_of_what_it_stands_for() {
    let world = World::new(|name, kind| {
        let alias = RData::CNAME(CNAME(Name::from_ascii("db.test.").unwrap()));
        let alias = Record::from_rdata(Name::from_ascii("alias.test.").unwrap(), 60, alias);
        let ends = match kind {
            RecordType::A => vec![record("db.test.", 60, "10.0.0.1")],
            _ => Vec::new(),
        };
        // Of what it stands for there is no more than that.
        let found = if name == "alias.test." { [vec![alias], ends].concat() } else { Vec::new() };
        Some((found, ResponseCode::NoError))
    });
    assert_eq!(texts(&world.ask("alias.test").unwrap()), ["10.0.0.1"]);
}

#[test]
fn where_one_version_cannot_be_told_the_other_is_not_taken_for_all() {
    for code in [Some(ResponseCode::ServFail), Some(ResponseCode::Refused), None] {
        for broken in [RecordType::A, RecordType::AAAA] {
            let world = World::new(move |name, kind| match kind {
                kind if kind == broken => code.map(|code| (Vec::new(), code)),
                RecordType::A => Some((vec![record(name, 60, "10.0.0.1")], ResponseCode::NoError)),
                _ => Some((vec![record(name, 60, "2001:db8::1")], ResponseCode::NoError)),
            });
            let cause = cause(world.ask("db.test."));
            assert!(cause.starts_with("untold: no answer ("), "{broken} {code:?}: {cause}");
            assert!(cause.ends_with("see whether the name servers in /etc/resolv.conf answer"), "{cause}");
            let families = if broken == RecordType::A { Families::IPV6 } else { Families::IPV4 };
            assert_eq!(ask(&mut world.sources(), "db.test.", families).unwrap().addresses.len(), 1);
        }
    }
}

#[test]
fn of_one_version_only_that_is_asked_for() {
    let world = World::new(zone(vec![record("db.test.", 60, "10.0.0.1"), record("db.test.", 60, "::5")]));
    for (families, kind, address) in
        [(Families::IPV4, RecordType::A, "10.0.0.1"), (Families::IPV6, RecordType::AAAA, "::5")]
    {
        let answer = ask(&mut world.sources(), "db.test.", families).unwrap();
        assert_eq!(texts(&answer), [address]);
        assert_eq!(world.asked(), [("db.test.".to_owned(), kind)]);
    }
}

#[test]
fn a_name_without_an_address_is_told_from_one_that_nobody_answers_for() {
    let world = World::new(zone(vec![record("db.test.", 60, "10.0.0.1")]));
    assert!(cause(world.ask("none.test.")).starts_with("none: it has no address"), "NXDOMAIN");
    let world = World::new(|_, _| Some((Vec::new(), ResponseCode::NoError)));
    assert!(cause(world.ask("none.test.")).starts_with("none: it has no address"), "no data");
    let world = World::new(|_, _| None);
    assert!(cause(world.ask("none.test.")).starts_with("untold"), "silence");
    let world = World::new(|_, _| Some((Vec::new(), ResponseCode::ServFail)));
    assert!(cause(world.ask("none.test.")).starts_with("untold"), "SERVFAIL");
}

#[test]
fn an_answer_that_does_not_fit_is_asked_for_again_whole() {
    let many = |count: u8| {
        let records = (0..count).map(|last| record("many.test.", 60, &format!("10.0.0.{last}")));
        World::new(zone(records.collect()))
    };
    assert_eq!(many(200).ask("many.test.").unwrap().addresses.len(), 200);
    let world = World::new(|name, kind| {
        let records = (0..=256).filter(|_| kind == RecordType::A);
        let records =
            records.map(|host: u16| record(name, 60, &format!("10.0.{}.{}", host / 256, host % 256)));
        Some((records.collect(), ResponseCode::NoError))
    });
    assert!(cause(world.ask("many.test.")).starts_with("untold: it has 257 addresses"));
}

#[test]
fn addresses_that_stand_for_all_are_none() {
    let world = World::new(zone(vec![record("ads.test.", 60, "0.0.0.0"), record("ads.test.", 60, "::")]));
    assert!(cause(world.ask("ads.test.")).contains("blocks"));
    let world =
        World::new(zone(vec![record("ads.test.", 60, "0.0.0.0"), record("ads.test.", 60, "10.0.0.1")]));
    assert_eq!(texts(&world.ask("ads.test.").unwrap()), ["10.0.0.1"]);
}

#[test]
fn a_name_is_looked_for_in_the_domains_of_the_search_list_and_all_its_addresses_are_of_one() {
    let world = World::new(zone(vec![
        record("db.b.test.", 60, "10.0.0.1"),
        record("db.c.test.", 60, "2001:db8::1"),
        record("db.", 60, "10.0.0.3"),
    ]));
    world.write(
        "resolv.conf",
        "nameserver 127.0.0.1\nsearch a.test b.test c.test\noptions timeout:1 attempts:1\n",
    );
    assert_eq!(texts(&world.ask("db").unwrap()), ["10.0.0.1"]);
    assert_eq!(texts(&world.ask("db.").unwrap()), ["10.0.0.3"], "absolute");
}

#[test]
fn the_hosts_file_goes_first_and_changes_of_either_file_are_seen() {
    let world = World::new(zone(vec![record("db.test.", 60, "10.0.0.1"), record("db.test.", 60, "::1")]));
    world.write("hosts", "# those\n10.9.0.1 db.test db\n10.9.0.2 db.test\n::ffff:10.9.0.3 DB.TEST\n");
    let mut sources = world.sources();
    let answer = ask(&mut sources, "db.test", Families::BOTH).unwrap();
    assert_eq!(
        (texts(&answer), answer.ttl),
        (vec!["10.9.0.1".into(), "10.9.0.2".into(), "10.9.0.3".into()], HOSTS_TTL)
    );
    assert_eq!(world.asked(), [], "nobody else was asked");
    world.write("hosts", "10.9.0.44 db.test\n");
    assert_eq!(texts(&ask(&mut sources, "db.test", Families::BOTH).unwrap()), ["10.9.0.44"]);
    world.write("hosts", "");
    assert_eq!(texts(&ask(&mut sources, "db.test.", Families::BOTH).unwrap()), ["10.0.0.1", "::1"]);
    world.write("resolv.conf", "nameserver 127.0.0.77\noptions timeout:1 attempts:1\n");
    assert!(cause(ask(&mut sources, "new.test.", Families::BOTH)).starts_with("untold"));
    // Neither has to be there.
    fs::remove_file(world.directory.path().join("hosts")).unwrap();
    fs::remove_file(world.directory.path().join("resolv.conf")).unwrap();
    assert_eq!(texts(&ask(&mut sources, "db.test.", Families::BOTH).unwrap()), ["10.0.0.1", "::1"]);
}

#[test]
fn a_server_that_is_not_there_is_told_at_once_and_the_next_is_asked() {
    let world = World::new(zone(vec![record("db.test.", 60, "10.0.0.1")]));
    world
        .write("resolv.conf", "nameserver 127.0.0.66\nnameserver 127.0.0.1\noptions timeout:30 attempts:1\n");
    let began = tokio::time::Instant::now();
    assert_eq!(texts(&world.ask("db.test.").unwrap()), ["10.0.0.1"]);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn a_candidate_that_is_not_answered_is_not_passed_over_for_another_host() {
    let resolv_conf = |ndots: u8| {
        format!("nameserver 127.0.0.1\nsearch a.test b.test\noptions timeout:1 attempts:1 ndots:{ndots}\n")
    };
    // By a wildcard every name in b.test is one host.
    let world = |broken: &'static str, code: Option<ResponseCode>| {
        World::new(move |name, kind| match (name, kind) {
            (name, _) if name == broken => code.map(|code| (Vec::new(), code)),
            (name, RecordType::A) if name.ends_with(".b.test.") => {
                Some((vec![record(name, 60, "10.9.9.9")], ResponseCode::NoError))
            }
            _ => Some((Vec::new(), ResponseCode::NXDomain)),
        })
    };
    for code in [Some(ResponseCode::ServFail), Some(ResponseCode::Refused), None] {
        for (ndots, broken) in [(1, "db.example.com."), (5, "db.example.com.a.test.")] {
            let world = world(broken, code);
            world.write("resolv.conf", &resolv_conf(ndots));
            for families in [Families::IPV4, Families::BOTH] {
                let cause = cause(ask(&mut world.sources(), "db.example.com", families));
                assert!(cause.starts_with("untold: no answer ("), "{broken} {code:?}: {cause}");
            }
        }
    }
    // Of the first that has any, all that are wanted are its own.
    let world = World::new(zone(vec![
        record("db.a.test.", 60, "10.0.0.1"),
        record("db.b.test.", 60, "2001:db8::1"),
        record("db.b.test.", 60, "10.0.0.2"),
    ]));
    world.write("resolv.conf", &resolv_conf(1));
    assert_eq!(texts(&world.ask("db").unwrap()), ["10.0.0.1"]);
    assert!(cause(ask(&mut world.sources(), "db", Families::IPV6)).starts_with("none"));
    // With enough dots a name is taken as it is first, else last; without a list a domain is one.
    let asked = |ndots: u8, text: &str| {
        let world = World::new(|_, _| Some((Vec::new(), ResponseCode::NXDomain)));
        world.write("resolv.conf", &resolv_conf(ndots).replace("search a.test b.test", text));
        assert!(cause(ask(&mut world.sources(), "db.x", Families::IPV4)).starts_with("none"));
        world.asked().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(asked(1, "search a.test b.test"), ["db.x.", "db.x.a.test.", "db.x.b.test."]);
    assert_eq!(asked(2, "search a.test b.test"), ["db.x.a.test.", "db.x.b.test.", "db.x."]);
    assert_eq!(asked(1, "domain c.test"), ["db.x.", "db.x.c.test."]);
}

#[test]
fn each_question_is_put_to_the_server_however_long_its_last_answer_holds() {
    let world = World::new(zone(vec![record("db.test.", 86_400, "10.0.0.1")]));
    let mut sources = world.sources();
    for _again in 0..2 {
        assert_eq!(texts(&ask(&mut sources, "db.test.", Families::IPV4).unwrap()), ["10.0.0.1"]);
        assert_eq!(world.asked().len(), 1);
    }
}

#[test]
fn a_hosts_file_is_read_whatever_is_in_it_and_one_that_cannot_be_is_told() {
    let world = World::new(zone(vec![record("db.test.", 60, "10.0.0.1")]));
    let hosts = world.directory.path().join("hosts");
    fs::write(&hosts, b"# caf\xe9\nnonsense\n10.9.0.1 db.test\n").unwrap();
    assert_eq!(texts(&world.ask("db.test").unwrap()), ["10.9.0.1"]);
    fs::remove_file(&hosts).unwrap();
    fs::create_dir(&hosts).unwrap();
    let cause = cause(world.ask("db.test"));
    assert!(cause.starts_with("untold: ") && cause.contains("hosts cannot be used"), "{cause}");
}
