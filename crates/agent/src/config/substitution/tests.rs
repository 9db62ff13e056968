use std::fs;

use super::*;

fn replaced(text: &str) -> Result<String, String> {
    let environment = Environment::from([("NAME", "value"), ("REFERENCE", "${env:NAME}"), ("EMPTY", "")]);
    substitute(text, &environment, Path::new("/no/such/directory"))
        .map(|done| done.text)
        .map_err(|faults| faults.into_iter().map(|fault| fault.problem).collect::<Vec<_>>().join("; "))
}

#[test]
fn variables_are_replaced_wherever_they_stand() {
    assert_eq!(replaced("a ${env:NAME} ${env:NAME}b"), Ok("a value valueb".to_owned()));
    assert_eq!(replaced("${env:UNSET:-}"), Ok(String::new()));
    assert_eq!(replaced("${env:UNSET:-a:-b}"), Ok("a:-b".to_owned()));
    assert_eq!(replaced("${env:EMPTY:-default}"), Ok("default".to_owned()));
    assert_eq!(replaced("${env:NAME:-default}"), Ok("value".to_owned()));
}

#[test]
fn dollars_that_are_no_references_stand_for_themselves() {
    assert_eq!(replaced("$$"), Ok("$".to_owned()));
    assert_eq!(replaced("$${env:NAME}"), Ok("${env:NAME}".to_owned()));
    assert_eq!(replaced("$$${env:NAME}"), Ok("$value".to_owned()));
    assert_eq!(replaced("5$ $x"), Ok("5$ $x".to_owned()));
    assert_eq!(replaced("*{a,b}"), Ok("*{a,b}".to_owned()));
}

#[test]
fn what_is_put_in_is_not_looked_through_again() {
    assert_eq!(replaced("${env:REFERENCE}"), Ok("${env:NAME}".to_owned()));
}

#[test]
fn every_reference_that_cannot_be_replaced_is_told() {
    let problems = replaced("${env:UNSET} ${NAME} ${env:a b} ${file:none} ${env:EMPTY} ${env:X").unwrap_err();
    for problem in [
        "the variable UNSET is not set",
        "${NAME} is not known",
        "${env:a b} does not name a variable",
        "${file:none} cannot be read",
        "the variable EMPTY is not set, or empty",
        "`${` is not closed",
    ] {
        assert!(problems.contains(problem), "{problem}: {problems}");
    }
}

#[test]
fn files_lose_one_line_feed_and_are_secret() {
    let directory = tempfile::tempdir().unwrap();
    let read = |content: &str| {
        fs::write(directory.path().join("secret"), content).unwrap();
        substitute("${file:secret}", &Environment::default(), directory.path()).unwrap()
    };
    let files = vec![directory.path().join("secret")];
    let secret = |text: &str| Substituted { text: text.to_owned(), replaced: true, files: files.clone() };
    assert_eq!(read("token"), secret("token"));
    assert_eq!(read("token\n"), secret("token"));
    assert_eq!(read("token\r\n"), secret("token"));
    assert_eq!(read("token\n\n"), secret("token\n"));
    assert_eq!(read("${env:NAME}\n"), secret("${env:NAME}"));
}

#[test]
fn only_regular_files_of_a_sensible_size_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let limit = usize::try_from(SECRET_BYTES_LIMIT).unwrap();
    let problem = |path: &str| {
        substitute(&format!("${{file:{path}}}"), &Environment::default(), directory.path())
            .map_err(|faults| faults[0].problem.clone())
    };
    fs::write(directory.path().join("largest"), "x".repeat(limit)).unwrap();
    assert!(problem("largest").is_ok());
    fs::write(directory.path().join("larger"), "x".repeat(limit + 1)).unwrap();
    assert_eq!(problem("larger"), Err("${file:larger} cannot be read: too large".to_owned()));
    assert!(problem("/dev/zero").unwrap_err().ends_with("not a regular file"));
    assert!(problem(".").unwrap_err().ends_with("not a regular file"));
}
