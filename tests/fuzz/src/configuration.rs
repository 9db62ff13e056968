//! Configuration: documents, the texts in them, and the whole loader.

use std::cell::OnceCell;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use tempfile::TempDir;
use vms_agent::fuzzing::{Format, Loader, TextKind, parse_document, parse_endpoint, substitute};

use crate::bounded::bounded;
use crate::cursor::Cursor;

/// The first byte is the format, the others are the document.
///
/// What was read is written as JSON, by other code, and read again: it has to be the same.
pub fn configuration_documents(data: &[u8]) {
    const FORMATS: [Format; 3] = [Format::Yaml, Format::Toml, Format::Json];
    let Some((kind, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let format = FORMATS[usize::from(*kind) % FORMATS.len()];
    let document = bounded(text.as_bytes(), 2048, 1 << 16, || parse_document(text, format));
    assert!(document.is_there() || !document.faults.is_empty(), "nothing is no answer");
    let lines = u32::try_from(text.split(['\n', '\r']).count()).expect("inputs are short");
    // A value that the end of the text leaves out may stand behind it.
    assert!(document.last_line() <= lines + 1, "line {} of {lines}", document.last_line());
    for (line, problem) in &document.faults {
        assert!(!problem.is_empty() && !problem.chars().any(char::is_control), "{problem:?}");
        assert!(line.is_none_or(|line| line <= lines + 1), "{line:?} of {lines}: {problem}");
    }
    if let Some(json) = document.to_json() {
        let again = parse_document(&json, Format::Json);
        assert_eq!(again.faults, [], "{json}");
        assert!(again.holds_the_same(&document), "{json}");
    }
}

/// The first byte is the kind of text, the others are the text.
pub fn configuration_texts(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let kind = usize::from(*kind) % (TextKind::ALL.len() + 3);
    match TextKind::ALL.get(kind) {
        Some(kind) => check_text(*kind, text),
        None if kind == TextKind::ALL.len() => check_references(text),
        None => check_endpoint(text, kind.is_multiple_of(2)),
    }
}

/// What is understood is written so that the same is understood again.
fn check_text(kind: TextKind, text: &str) {
    // A glob becomes a regular expression, of which a byte of it is some states.
    let (times, constant) = match kind {
        TextKind::Glob => (4096, 1 << 20),
        TextKind::LogFilter => (1024, 1 << 20),
        _ => (16, 1024),
    };
    match bounded(text.as_bytes(), times, constant, || kind.read(text)) {
        Ok(written) => {
            assert_eq!(kind.read(&written), Ok(written.clone()), "{kind:?}: {text:?}");
            let lowercase = text.to_ascii_lowercase();
            match kind {
                TextKind::Duration => assert!(text == "0" || text.ends_with(['h', 'm', 's'])),
                TextKind::Percent => assert!(text.ends_with('%')),
                TextKind::Path | TextKind::Glob | TextKind::LogFilter | TextKind::HeaderValue => {
                    assert_eq!(written, text);
                }
                TextKind::HeaderName => assert_eq!(written, lowercase),
                // An address, or one and a number of bits, or the name of a host.
                TextKind::Address => match written.split('/').next().unwrap_or_default().parse::<IpAddr>() {
                    Ok(ip) => assert!(written.contains('/') || ip == ip.to_canonical(), "{written}"),
                    Err(_no_address) => {
                        assert_eq!(written, lowercase);
                        assert!(written.len() <= 254 && written.contains(|c: char| c.is_ascii_alphabetic()));
                        // Another reader of names takes it as well.
                        let url = format!("http://{written}/").parse::<http::Uri>();
                        assert_eq!(url.expect("it may be the host of a URL").host(), Some(written.as_str()));
                    }
                },
                TextKind::Ports => {
                    let ports =
                        written.split('-').map(|port| port.parse::<u16>().expect("a written port is one"));
                    assert!(ports.clone().is_sorted() && ports.into_iter().all(|port| port > 0), "{written}");
                }
                TextKind::StateName => assert_eq!(written, written.to_ascii_uppercase()),
                TextKind::Ip => {
                    let address = written.split('%').next().unwrap_or_default();
                    let ip: IpAddr = address.parse().expect("a written address is one");
                    assert_eq!(ip, ip.to_canonical());
                }
            }
        }
        Err(problem) => assert!(!problem.is_empty(), "{kind:?}: {text:?}"),
    }
}

fn check_references(text: &str) {
    let variables = [("A".to_owned(), "a".to_owned()), ("B".to_owned(), "${env:A}$".to_owned())];
    let outcome = bounded(text.as_bytes(), 256, 4096, || substitute(text, &variables));
    if !text.contains('$') {
        assert_eq!(outcome.as_deref(), Ok(text));
    }
    if let Err(problems) = &outcome {
        assert!(!problems.is_empty() && !text.is_empty());
    }
    // What is doubled stands for itself.
    assert_eq!(substitute(&text.replace('$', "$$"), &variables).as_deref(), Ok(text));
}

fn check_endpoint(text: &str, grpc: bool) {
    for insecure in [true, false] {
        match bounded(text.as_bytes(), 64, 4096, || parse_endpoint(text, grpc, insecure)) {
            Ok(uri) => {
                assert!(matches!(uri.scheme_str(), Some("http" | "https")), "{uri}");
                assert!(uri.host().is_some_and(|host| !host.is_empty()), "{uri}");
                assert!(
                    uri.port_u16() != Some(0) && !uri.to_string().contains('@')
                        || uri.path().contains('@')
                        || uri.query().is_some_and(|query| query.contains('@')),
                    "{uri}"
                );
                assert!(!grpc || uri.path() == "/" && uri.query().is_none(), "{uri}");
                assert_eq!(parse_endpoint(&uri.to_string(), grpc, insecure).as_ref(), Ok(&uri));
            }
            Err(problem) => assert!(!problem.is_empty()),
        }
    }
}

/// A secret that no output may show.
const SECRET: &str = "Zq7-not-to-be-seen";

struct Host {
    loader: Loader,
    directory: TempDir,
}

impl Host {
    /// The file with that text, in the format of its extension.
    fn write(&self, extension: &str, text: &[u8]) -> PathBuf {
        let file = self.directory.path().join(format!("c.{extension}"));
        fs::write(&file, text).expect("a temporary file can be written");
        file
    }
}

thread_local! {
    static HOST: OnceCell<Host> = const { OnceCell::new() };
}

/// A file and variables: the first byte is the format, and NULs end the file and each `NAME=value`.
///
/// What loads has to be printed so that the same loads again; what does not has to be told with its place, and without a
/// secret.
pub fn configuration(data: &[u8]) {
    HOST.with(|host| {
        let host = host.get_or_init(|| Host {
            loader: Loader::default(),
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
        });
        check_configuration(host, data);
    });
}

fn check_configuration(host: &Host, data: &[u8]) {
    let mut cursor = Cursor(data);
    let extension = ["yaml", "toml", "json", "yml"][usize::from(cursor.byte()) % 4];
    let mut parts = cursor.rest().split(|byte| *byte == 0);
    let text = parts.next().unwrap_or_default();
    let mut variables: Vec<(String, String)> = parts
        .filter_map(|part| {
            let (name, value) = std::str::from_utf8(part).ok()?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect();
    variables.push(("OTEL_EXPORTER_OTLP_HEADERS".to_owned(), format!("x-key={SECRET}")));
    let file = host.write(extension, text);
    match host.loader.load(Some(&file), &variables) {
        Ok(loaded) => {
            assert_eq!(loaded.broken_promise(), None);
            check_shown(&loaded.effective, data);
            loaded.warnings.iter().for_each(|warning| check_shown(warning, data));
            loaded.try_exporter().expect("what the configuration accepts, the exporter accepts");
            if loaded.is_masked_in_part() {
                return;
            }
            let file = host.write("effective.yaml", loaded.effective.as_bytes());
            let again = host.loader.load(Some(&file), &[]).unwrap_or_else(|report| {
                panic!("{report}\n\n{}", loaded.effective);
            });
            assert!(again.means_the_same(&loaded), "{}\n\n{}", loaded.effective, again.effective);
        }
        Err(report) => {
            check_shown(&report, data);
            for fault in report.split("\n\n").skip(1) {
                let has_place = fault.starts_with(&*file.to_string_lossy())
                    || variables.iter().any(|(name, _)| fault.starts_with(&format!("{}: ", clean(name))));
                assert!(
                    has_place || fault.starts_with("probes: missing"),
                    "no place: {fault:?} in {report:?}"
                );
            }
        }
    }
}

/// What orders text or ends its lines without being a control character, and the mark of a byte order.
const DIRECTIONS_AND_LINES: &[char] = &[
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}',
    '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}', '\u{feff}',
];

/// A name as it is printed.
fn clean(name: &str) -> String {
    let is_harmless = |c: char| !c.is_control() && !DIRECTIONS_AND_LINES.contains(&c);
    let clean = |c: char| if is_harmless(c) { c.to_string() } else { c.escape_default().to_string() };
    name.chars().map(clean).collect()
}

/// Nothing that is printed writes to a terminal or shows a secret.
fn check_shown(text: &str, data: &[u8]) {
    let is_harmful = |c: char| c != '\n' && (c.is_control() || DIRECTIONS_AND_LINES.contains(&c));
    assert!(!text.contains(is_harmful), "{text:?}");
    let is_given_away = data.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
    assert!(!text.contains(SECRET) || is_given_away, "{text}");
}
