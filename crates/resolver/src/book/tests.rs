use proptest::collection::vec;
use proptest::prelude::*;
use vms_core::socket::Families;

use super::*;

fn query(name: &str) -> NameQuery {
    NameQuery { name: name.parse().unwrap(), families: Families::BOTH }
}

fn found(addresses: &[&str], ttl: u64) -> Answer {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Answer { addresses, ttl: Duration::from_secs(ttl) }
}

fn silence() -> Failure {
    Failure::Untold("silence".into())
}

fn none() -> Failure {
    Failure::NoAddress("none".into())
}

/// A book of `db`, and the time.
struct Desk {
    book: Book,
    now: Instant,
}

impl Desk {
    fn new() -> Self {
        let now = tokio::time::Instant::now().into_std();
        let mut book = Book::default();
        book.want(&[query("db")].into(), now);
        Self { book, now }
    }

    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.now += Duration::from_secs(seconds);
        self
    }

    /// Asks for what is due, which has to be `db`.
    fn ask(&mut self, outcome: Result<Answer, Failure>) -> Option<Turn> {
        assert_eq!(self.book.take_due(self.now, 9), [query("db")]);
        assert_eq!(self.book.take_due(self.now, 9), [], "it is under way");
        self.book.note(&query("db"), outcome, self.now)
    }

    fn is_due(&self) -> bool {
        self.book.next_due().unwrap() <= self.now
    }

    /// The addresses, how old they are, and whether they are overdue; or why there are none.
    fn resolution(&self) -> Result<(Vec<String>, u64, bool), String> {
        match self.book.resolution(&query("db"), self.now) {
            Resolution::Known(resolved) => Ok((
                resolved.addresses.iter().map(ToString::to_string).collect(),
                resolved.age.as_secs(),
                resolved.overdue.is_some(),
            )),
            Resolution::Unknown(cause) => Err(cause.to_string()),
        }
    }
}

#[test]
fn a_name_is_asked_for_again_when_its_time_is_over_and_no_sooner() {
    let mut desk = Desk::new();
    assert!(desk.resolution().unwrap_err().contains("not been answered yet"));
    assert!(!desk.book.is_settled());
    desk.ask(Ok(found(&["10.0.0.1"], 60)));
    assert!(desk.book.is_settled());
    assert!(!desk.wait(59).is_due());
    assert_eq!(desk.resolution(), Ok((vec!["10.0.0.1".into()], 59, false)));
    assert!(desk.wait(1).is_due());
    desk.ask(Ok(found(&["10.0.0.2", "10.0.0.1"], 0)));
    assert_eq!(desk.resolution(), Ok((vec!["10.0.0.1".into(), "10.0.0.2".into()], 0, false)));
    assert!(!desk.wait(4).is_due(), "however short its time");
    assert!(desk.wait(1).is_due());
    desk.ask(Ok(found(&["10.0.0.1"], 1_000_000)));
    assert!(desk.wait(3_600).is_due(), "however long its time");
}

#[test]
fn addresses_outlive_a_silence_for_a_while_and_are_overdue_meanwhile() {
    let mut desk = Desk::new();
    desk.ask(Ok(found(&["10.0.0.1"], 60)));
    desk.wait(60);
    assert_eq!(desk.ask(Err(silence())), Some(Turn::Overdue("silence".into())));
    assert_eq!(desk.resolution(), Ok((vec!["10.0.0.1".into()], 60, true)));
    assert_eq!(desk.wait(5).ask(Err(silence())), None, "once");
    desk.wait(3_594);
    assert_eq!(desk.resolution(), Ok((vec!["10.0.0.1".into()], 3_659, true)));
    desk.wait(1);
    assert_eq!(desk.resolution(), Err("silence".into()));
    assert_eq!(desk.ask(Ok(found(&["10.0.0.3"], 60))), Some(Turn::Current));
    assert_eq!(desk.resolution(), Ok((vec!["10.0.0.3".into()], 0, false)));
}

#[test]
fn a_name_that_is_answered_to_have_no_address_has_none_at_once() {
    let mut desk = Desk::new();
    desk.ask(Ok(found(&["10.0.0.1"], 60)));
    desk.wait(60).ask(Err(none()));
    assert_eq!(desk.resolution(), Err("none".into()));
    desk.wait(5).ask(Ok(found(&["10.0.0.1"], 60)));
    assert!(desk.resolution().is_ok());
}

#[test]
fn an_answer_on_its_way_makes_nothing_overdue_and_one_that_never_comes_does() {
    let mut desk = Desk::new();
    desk.ask(Ok(found(&["10.0.0.1"], 60)));
    desk.wait(60);
    desk.book.take_due(desk.now, 9);
    assert!(!desk.wait(1).resolution().unwrap().2);
    assert!(desk.wait(1).resolution().unwrap().2);
    assert!(desk.wait(3_598).resolution().is_err());
}

#[test]
fn what_nobody_wants_any_more_is_forgotten_and_what_is_wanted_still_is_kept() {
    let mut desk = Desk::new();
    desk.ask(Ok(found(&["10.0.0.1"], 60)));
    desk.book.want_also(&[query("new")].into(), desk.now);
    assert!(desk.resolution().is_ok() && !desk.book.is_settled());
    desk.book.want(&[query("db")].into(), desk.now);
    assert!(desk.resolution().is_ok() && desk.book.is_settled());
    desk.book.want(&[query("new")].into(), desk.now);
    assert_eq!(desk.resolution(), Err("nobody has asked for it".into()));
    assert_eq!(desk.book.note(&query("db"), Ok(found(&["10.0.0.1"], 60)), desk.now), None, "it comes late");
    assert_eq!(desk.resolution(), Err("nobody has asked for it".into()));
}

#[test]
fn those_that_wait_longest_are_asked_for_first() {
    let mut desk = Desk::new();
    desk.book.want_also(&[query("a"), query("b")].into(), desk.now + Duration::from_secs(1));
    desk.wait(2);
    assert_eq!(desk.book.take_due(desk.now, 1), [query("db")]);
    assert_eq!(desk.book.take_due(desk.now, 1), [query("a")]);
    assert_eq!(desk.book.take_due(desk.now, 1), [query("b")]);
    assert_eq!(desk.book.next_due(), None);
}

proptest! {
    /// Whatever comes of asking, addresses are told that were answered last, while that holds, and are marked unless they
    /// were due not long ago.
    #[test]
    fn what_is_told_was_answered_last(steps in vec((0_u8..4, 0_u64..200, 0_u64..100), 1..40)) {
        let mut desk = Desk::new();
        let mut last: Option<(String, Instant, Instant)> = None;
        let mut failed = false;
        for (outcome, ttl, pause) in steps {
            if !desk.book.take_due(desk.now, 9).is_empty() {
                let address = format!("10.0.0.{ttl}");
                let outcome = match outcome {
                    0 => Err(silence()),
                    1 => Err(none()),
                    _ => Ok(found(&[&address], ttl)),
                };
                match &outcome {
                    Ok(answer) => {
                        let until = desk.now + answer.ttl.max(MIN_TTL);
                        last = Some((address, desk.now, until));
                    }
                    Err(Failure::NoAddress(_)) => last = None,
                    Err(Failure::Untold(_)) => {}
                }
                failed = outcome.is_err();
                desk.book.note(&query("db"), outcome, desk.now);
            }
            desk.wait(pause);
            match (&last, desk.resolution()) {
                (Some((address, at, until)), Ok((addresses, age, overdue))) => {
                    prop_assert_eq!(addresses, vec![address.clone()]);
                    prop_assert_eq!(age, (desk.now - *at).as_secs());
                    prop_assert_eq!(overdue, failed || desk.now >= *until + GRACE);
                }
                (None, Err(_)) => {}
                (last, told) => prop_assert!(false, "{last:?} and {told:?}"),
            }
        }
    }
}
