use super::*;

fn tree(text: &str, format: Format) -> Node {
    match parse(text, format) {
        (Some(node), faults) if faults.is_empty() => node,
        other => panic!("{other:?}"),
    }
}

fn problems(text: &str, format: Format) -> Vec<String> {
    let show = |fault: SyntaxFault| match fault.line {
        Some(line) => format!("{line}: {}: {}", fault.path, fault.problem),
        None => format!("{}: {}", fault.path, fault.problem),
    };
    parse(text, format).1.into_iter().map(show).collect()
}

/// The tree with lines, one value a line.
fn outline(text: &str, format: Format) -> Vec<String> {
    fn walk(node: &Node, path: &KeyPath, lines: &mut Vec<String>) {
        match &node.content {
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(item, &path.index(index), lines);
                }
            }
            Content::Map(entries) => {
                for (key, node) in entries {
                    walk(node, &path.key(key), lines);
                }
            }
            scalar => lines.push(format!("{}: {path} {scalar:?}", node.line)),
        }
    }
    let mut lines = Vec::new();
    walk(&tree(text, format), &KeyPath::default(), &mut lines);
    lines
}

#[test]
fn each_format_tells_values_and_lines() {
    let expected = [
        "2: list[0].a Integer(1)",
        "3: list[0].b Text(\"x\")",
        "4: list[1].a Float(1.5)",
        "5: map.c Bool(true)",
    ];
    let yaml = "list:\n  - a: 1\n    b: x\n  - a: 1.5\nmap: {c: true}\n";
    assert_eq!(outline(yaml, Format::Yaml), expected);
    let json = "{\"list\": [\n{\"a\": 1,\n\"b\": \"x\"},\n{\"a\": 1.5}],\n\"map\": {\"c\": true}}";
    assert_eq!(outline(json, Format::Json), expected);
    let toml = "list = [\n{ a = 1,\nb = 'x' },\n{ a = 1.5 }]\nmap.c = true\n";
    assert_eq!(outline(toml, Format::Toml), expected);
    assert_eq!(
        outline("[[list]]\na = 1\n\n[map]\nc = true\n", Format::Toml),
        ["2: list[0].a Integer(1)", "5: map.c Bool(true)"]
    );
}

#[test]
fn yaml_scalars_are_those_of_the_core_schema() {
    for (text, content) in [
        ("", Content::Null),
        ("~", Content::Null),
        ("null", Content::Null),
        ("true", Content::Bool(true)),
        ("yes", Content::Text("yes".to_owned())),
        ("12", Content::Integer(12)),
        ("-12", Content::Integer(-12)),
        ("+12", Content::Integer(12)),
        ("0x1f", Content::Integer(31)),
        ("0o17", Content::Integer(15)),
        ("99999999999999999999", Content::Integer(99_999_999_999_999_999_999)),
        ("1e3", Content::Float(1000.0)),
        (".5", Content::Float(0.5)),
        (".inf", Content::Float(f64::INFINITY)),
        ("inf", Content::Text("inf".to_owned())),
        ("nan", Content::Text("nan".to_owned())),
        ("1m30s", Content::Text("1m30s".to_owned())),
        ("10.0.0.1", Content::Text("10.0.0.1".to_owned())),
        ("::1", Content::Text("::1".to_owned())),
        ("\"12\"", Content::Text("12".to_owned())),
        ("!!str 12", Content::Text("12".to_owned())),
        ("!!int \"12\"", Content::Integer(12)),
        ("|\n  a\n  b\n", Content::Text("a\nb\n".to_owned())),
    ] {
        assert_eq!(tree(text, Format::Yaml).content, content, "{text}");
    }
}

#[test]
fn yaml_aliases_and_merge_keys_are_written_out() {
    let text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{y: 4}, *a]}\nd: *a\n";
    assert_eq!(
        outline(text, Format::Yaml),
        [
            "1: a.x Integer(1)",
            "1: a.y Integer(2)",
            "1: b.x Integer(1)",
            "2: b.y Integer(3)",
            "1: c.x Integer(1)",
            "3: c.y Integer(4)",
            "1: d.x Integer(1)",
            "1: d.y Integer(2)",
        ]
    );
    assert_eq!(outline("\"<<\": 1\n", Format::Yaml), ["1: [\"<<\"] Integer(1)"], "quoted, it is a key");
}

#[test]
fn what_yaml_allows_and_a_configuration_does_not_is_refused() {
    assert_eq!(
        problems("a: 1\n---\nb: 2\n", Format::Yaml),
        ["2: : a second document begins: a configuration is one"]
    );
    assert_eq!(problems("? [a]\n: 1\n", Format::Yaml), ["1: : a key has to be a word, not a list or map"]);
    assert_eq!(
        problems("a: !secret x\n", Format::Yaml),
        ["1: a: a text that begins with ! has to be put in quotes"]
    );
    assert_eq!(
        problems("a: !!int x\n", Format::Yaml),
        ["1: a: the tag \"tag:yaml.org,2002:!int\" has no meaning here"]
    );
    assert_eq!(
        problems("a: &a [*a]\n", Format::Yaml),
        ["1: a[0]: an alias stands inside of what it stands for"]
    );
    assert_eq!(problems("a: {<<: 1}\n", Format::Yaml), ["1: a: `<<` takes a map or a list of maps"]);
}

#[test]
fn repeated_keys_are_refused_with_both_lines() {
    let expected = ["3: a.b: given twice, first on line 2", "4: a: given twice, first on line 1"];
    assert_eq!(problems("a:\n  b: 1\n  b: 2\na: 3\n", Format::Yaml), expected);
    assert_eq!(problems("{\"a\": {\n\"b\": 1,\n\"b\": 2},\n\"a\": 3}", Format::Json), expected);
    assert_eq!(problems("\"a\": 1\na: 2\n", Format::Yaml), ["2: a: given twice, first on line 1"]);
    assert_eq!(problems("a = 1\na = 2\n", Format::Toml), ["2: : not TOML: duplicate key"]);
}

#[test]
fn json_is_nothing_more_than_json() {
    for text in ["{\"a\": 1,}", "{a: 1}", "{\"a\": 1} x", "# x\n{}", "{\"a\": .5}"] {
        let (node, faults) = parse(text, Format::Json);
        assert!(node.is_none() && faults.len() == 1, "{text}: {faults:?}");
    }
    assert_eq!(outline("{\"\\u00e9\\ud83d\\ude00\": \"\\/\"}", Format::Json), ["1: [\"é😀\"] Text(\"/\")"]);
    assert_eq!(problems("{\"a\":\n\"\\ud83d\"}", Format::Json).len(), 1);
}

#[test]
fn the_format_is_that_of_the_extension() {
    for (path, format) in [
        ("a.yaml", Some(Format::Yaml)),
        ("a.yml", Some(Format::Yaml)),
        ("a.toml", Some(Format::Toml)),
        ("a.json", Some(Format::Json)),
        ("a.YAML", None),
        ("a.conf", None),
        ("yaml", None),
    ] {
        assert_eq!(Format::of(Path::new(path)), format, "{path}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    assert_eq!(outline("\u{feff}{\"a\": 1}", Format::Json), ["1: a Integer(1)"]);
}
