//! The scanner against `serde_json` on generated, damaged and cut texts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A test stops at the first surprise.

use std::ops::Range;

use endpoint_picker::openai::json::{Container, MAX_DEPTH, Node, ROOT, Scalar, ScanError, Scanner, Want, Watch};
use proptest::prelude::*;
use serde_json::Value;

/// Rebuilds the text's values from what it is told, so that every event is checked.
#[derive(Default)]
struct Builder {
    open: Vec<(Value, Option<String>)>,
    key: Option<String>,
    root: Option<Value>,
    ranges: Vec<Range<u64>>,
}

impl Builder {
    fn put(&mut self, value: Value, key: Option<String>) {
        match (self.open.last_mut(), key) {
            (None, None) => self.root = Some(value),
            (Some((Value::Array(elements), _)), None) => elements.push(value),
            (Some((Value::Object(members), _)), Some(key)) => {
                members.insert(key, value);
            }
            (open, key) => panic!("value at {open:?} under {key:?}"),
        }
    }
}

const CHILD: Node = 7;

impl Watch for Builder {
    fn member(&mut self, node: Node, key: &[u8]) -> Node {
        assert!(node == ROOT || node == CHILD);
        self.key = Some(String::from_utf8_lossy(key).into_owned());
        CHILD
    }

    fn element(&mut self, _: Node) -> Node {
        CHILD
    }

    fn want(&mut self, _: Node) -> Want {
        Want::Text(usize::MAX)
    }

    fn scalar(&mut self, _: Node, scalar: Scalar<'_>, range: Range<u64>) {
        let value = match scalar {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => value.into(),
            Scalar::Number(token) => serde_json::from_slice(token).unwrap(),
            Scalar::Text { text, cut } => {
                assert!(!cut);
                std::str::from_utf8(text).unwrap().into()
            }
            Scalar::Opaque => panic!("text was asked for"),
        };
        let key = self.key.take();
        self.ranges.push(range);
        self.put(value, key);
    }

    fn open(&mut self, _: Node, container: Container, _: u64) {
        let value = match container {
            Container::Array => Value::Array(Vec::new()),
            Container::Object => Value::Object(serde_json::Map::new()),
        };
        self.open.push((value, self.key.take()));
    }

    fn close(&mut self, _: Node, _: u64) {
        let (value, key) = self.open.pop().unwrap();
        self.put(value, key);
    }
}

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Value, Vec<Range<u64>>), ScanError> {
    let mut scanner = Scanner::new();
    let mut builder = Builder::default();
    for piece in pieces {
        scanner.feed(piece, &mut builder)?;
    }
    scanner.finish(&mut builder)?;
    Ok((builder.root.unwrap(), builder.ranges))
}

/// Pieces of `text` cut at the given places, which need not be in order.
fn cut(text: &[u8], places: &[usize]) -> Vec<Vec<u8>> {
    let mut places: Vec<_> = places.iter().map(|place| place % (text.len() + 1)).collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for place in places.into_iter().chain([text.len()]) {
        pieces.push(text[start..place].to_vec());
        start = place;
    }
    pieces
}

/// Checks a whole text against `serde_json`, and cut texts against the whole one.
fn agree(text: &[u8], places: &[usize]) {
    let whole = scan([text]);
    match (serde_json::from_slice::<Value>(text), &whole) {
        (Ok(expected), Ok((value, ranges))) => {
            // Names beyond the bound are handed out cut, and then differ.
            if !has_long_name(&expected) {
                assert_eq!(&expected, value);
            }
            for range in ranges {
                let token = &text[range.start as usize..range.end as usize];
                assert!(serde_json::from_slice::<Value>(token).is_ok(), "{range:?}");
                assert_eq!(token, token.trim_ascii());
            }
        }
        (Err(_), Err(_)) => {}
        (expected, got) => panic!("{:?}: serde_json {expected:?}, scanner {got:?}", String::from_utf8_lossy(text)),
    }
    let pieces = cut(text, places);
    let in_pieces = scan(pieces.iter().map(Vec::as_slice));
    assert_eq!(in_pieces, whole, "{pieces:?}");
}

fn agree_at_every_cut(text: &[u8]) {
    for place in 0..=text.len() {
        agree(text, &[place]);
    }
    let bytewise: Vec<_> = (0..text.len()).collect();
    agree(text, &bytewise);
}

fn has_long_name(value: &Value) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(has_long_name),
        Value::Object(members) => members.iter().any(|(name, value)| name.len() > 64 || has_long_name(value)),
        _ => false,
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[ -~]{0,200}".prop_map(Value::from),
        "[\\x00-\\x7féß漢字🦀\"\\\\]{0,90}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((".{0,8}|model|[a-z_]{60,70}", inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// How a value may be written.
fn text() -> impl Strategy<Value = Vec<u8>> {
    (value(), 0..3u8).prop_map(|(value, style)| match style {
        0 => serde_json::to_vec(&value).unwrap(),
        1 => serde_json::to_vec_pretty(&value).unwrap(),
        _ => ascii(&serde_json::to_string(&value).unwrap()).into_bytes(),
    })
}

/// The same JSON with everything beyond ASCII escaped.
fn ascii(json: &str) -> String {
    let mut escaped = String::new();
    for character in json.chars() {
        if character.is_ascii() {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04X}"));
            }
        }
    }
    escaped
}

/// Fragments that come close to JSON.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        Just(b"{".to_vec()),
        Just(b"}".to_vec()),
        Just(b"[".to_vec()),
        Just(b"]".to_vec()),
        Just(b",".to_vec()),
        Just(b":".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"\"a\"".to_vec()),
        Just(b"\\".to_vec()),
        Just(b"\\u".to_vec()),
        Just(b"\\ud83d".to_vec()),
        Just(b"\\uDE00".to_vec()),
        Just(b"null".to_vec()),
        Just(b"true".to_vec()),
        Just(b"fals".to_vec()),
        Just(b" ".to_vec()),
        Just(b"-".to_vec()),
        Just(b"0".to_vec()),
        Just(b"12".to_vec()),
        Just(b".5".to_vec()),
        Just(b"e".to_vec()),
        Just(b"E+".to_vec()),
        Just(b"308".to_vec()),
        Just(b"\x00".to_vec()),
        Just(b"\xc3".to_vec()),
        Just(b"\xa9".to_vec()),
        Just(b"\xf0\x9f\xa6".to_vec()),
        Just(b"\x80".to_vec()),
        Just(b"\xed\xa0\x80".to_vec()),
        Just(b"\xef\xbb\xbf".to_vec()),
        Just(b"x".to_vec()),
        Just(b"\n".to_vec()),
    ];
    proptest::collection::vec(fragment, 0..14).prop_map(|fragments| fragments.concat())
}

fn places() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(any::<usize>(), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_written_value_is_read_back(text in text(), places in places()) {
        agree(&text, &places);
    }

    #[test]
    fn damaged_texts_are_judged_as_serde_json_does(
        mut text in text(),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>(), 0..3u8), 1..4),
        places in places(),
    ) {
        for (place, byte, kind) in damage {
            let place = place % (text.len() + 1);
            match kind {
                0 => text.insert(place, byte),
                1 if place < text.len() => text[place] = byte,
                _ if place < text.len() => { text.remove(place); }
                _ => {}
            }
        }
        agree(&text, &places);
    }

    #[test]
    fn cut_off_texts_are_judged_as_serde_json_does(text in text(), end in any::<usize>(), places in places()) {
        agree(&text[..end % (text.len() + 1)], &places);
    }

    #[test]
    fn random_bytes_are_judged_as_serde_json_does(text in proptest::collection::vec(any::<u8>(), 0..40), places in places()) {
        agree(&text, &places);
        let string = [b"\"".as_slice(), &text, b"\""].concat();
        agree(&string, &places);
    }

    #[test]
    fn fragments_are_judged_as_serde_json_does(text in fragments(), places in places()) {
        agree(&text, &places);
        let string = [b"[\"".as_slice(), &text, b"\"]"].concat();
        agree(&string, &places);
    }

    #[test]
    fn numbers_are_judged_as_serde_json_does(text in "-?[0-9]{1,30}(\\.[0-9]{0,30})?([eE][+-]?[0-9]{0,4})?", places in places()) {
        agree(text.as_bytes(), &places);
        agree(format!("[{text}]").as_bytes(), &places);
        agree(format!("{{\"a\":{text} }}").as_bytes(), &places);
    }
}

#[test]
fn awkward_texts_are_judged_alike_at_every_cut() {
    for text in [
        "",
        " ",
        "\n\t\r ",
        "null",
        "nul",
        "nulll",
        "true false",
        "[]",
        "{}",
        "[,]",
        "[1,]",
        "{\"a\":1,}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\" 1}",
        "{1:2}",
        "[1 2]",
        "[}",
        "{]",
        "]",
        "}",
        "[[]",
        "{\"a\":{}",
        "-",
        "-0",
        "01",
        "-01",
        "1.",
        ".1",
        "1.e1",
        "1e",
        "1e+",
        "1E-5",
        "0e0",
        "0.0",
        "+1",
        "1e999",
        "-1e999",
        "0e999",
        "0.0e9999",
        "1e-9999",
        "1e308",
        "1.7976931348623157e308",
        "1.7976931348623159e308",
        "2e308",
        "123e306",
        "0x1",
        "NaN",
        "Infinity",
        "\"\\ud83d\\ude00\"",
        "\"\\ud7ff\\ue000\"",
        "\"\\ud800\\udc00\\udbff\\udfff\"",
        "\"\\udc00\"",
        "\"\\udfff\"",
        "\"\\ud800\"",
        "\"\\udbff\"",
        "\"\\ud800\\udbff\"",
        "\"\\ud800\\ue000\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83d\\ud83d\"",
        "\"\\ud83dx\"",
        "\"\\ud83d\\n\"",
        "\"\\u12\"",
        "\"\\u00zz\"",
        "\"\\u0000\"",
        "\"\\x\"",
        "\"\\",
        "\"",
        "\"a\nb\"",
        "\"a\tb\"",
        "\"\u{7f}\"",
        "\"é漢🦀\"",
        "\"éééééééééééééééééééééééééééééééééééééééééééééé\\n漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢\"",
        "\u{feff}{}",
        "{\"a\":1}x",
        "{\"a\":1} \n",
        "\"a\"\"b\"",
        "[\"a\\u0041\\\"\\\\\\/\\b\\f\\n\\r\\t\"]",
        "{\"mod\\u0065l\":\"x\"}",
    ] {
        agree_at_every_cut(text.as_bytes());
    }
    for bytes in [
        &b"\"\xff\""[..],
        b"\"\xc3\"",
        b"\"\xc3\xa9\"",
        b"\"\xe6\xbc\"",
        b"\"\xf0\x80\x80\x80\"",
        b"\"\xed\xa0\x80\"",
        b"\"\xf4\x90\x80\x80\"",
        b"\"\xc0\xaf\"",
        b"\"\xc3\\u00e9\"",
        b"\xc3\xa9",
        b"[\"a\xc3",
        b"\"\xf0\x9f\xa6\x01\"",
    ] {
        agree_at_every_cut(bytes);
    }
}

#[test]
fn very_long_numbers_are_judged_as_serde_json_does() {
    for length in [199, 200, 201, 308, 309, 310, 400, 2000] {
        for text in [
            "9".repeat(length),
            format!("0.{}1", "0".repeat(length)),
            format!("{}e-400", "9".repeat(length)),
            format!("1{}.5", "0".repeat(length)),
            format!("0.{}1e{length}", "0".repeat(length)),
            format!("1e{}1", "0".repeat(length)),
        ] {
            agree(text.as_bytes(), &[length / 2]);
            agree(format!("[{text},1]").as_bytes(), &[length, 3]);
        }
    }
}

#[test]
fn nesting_is_refused_where_serde_json_refuses_it() {
    for depth in [1, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 100_000] {
        let arrays = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let objects = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        for text in [arrays, objects] {
            agree(text.as_bytes(), &[depth]);
        }
    }
    let deep = "[".repeat(100_000);
    assert_eq!(scan([deep.as_bytes()]), Err(ScanError::TooDeep { offset: 127 }));
}

#[test]
fn errors_name_their_place() {
    for (text, offset, reason) in [
        ("{\"model\": }", 10, "expected a value"),
        ("{\"a\":1 \"b\"", 7, "expected ',' or '}'"),
        ("[1 2]", 3, "expected ',' or ']'"),
        ("{a", 1, "expected a member name or '}'"),
        ("{\"a\"1}", 4, "expected ':'"),
        ("{\"a\":1,}", 7, "expected a member name"),
        ("{} {}", 3, "expected the end"),
        ("{\"a\":\"b", 7, "unclosed string"),
        ("{\"a\":1", 6, "unclosed object"),
        ("[1", 2, "unclosed array"),
        ("[", 1, "expected a value"),
        ("[1e999]", 1, "number out of range"),
        ("[1.]", 3, "invalid number"),
        ("\"\\q\"", 2, "invalid escape"),
        ("\"\\ud800\"", 7, "unpaired surrogate in an escape"),
        ("\"a\u{1}\"", 2, "control character in a string"),
        ("tru", 3, "expected a value"),
        ("{\"a\":", 5, "expected a value"),
    ] {
        assert_eq!(scan([text.as_bytes()]).map(|_| ()), Err(ScanError::Malformed { offset, reason }), "{text}");
    }
    assert_eq!(scan([b"\"ab\xff".as_slice()]).map(|_| ()), Err(ScanError::NotUtf8 { offset: 3 }));
    assert_eq!(scan([b" ".as_slice()]).map(|_| ()), Err(ScanError::Empty));
}

#[test]
fn an_error_lasts() {
    let mut scanner = Scanner::new();
    let mut builder = Builder::default();
    let error = scanner.feed(b"[}", &mut builder).unwrap_err();
    assert_eq!(scanner.feed(b"]", &mut builder), Err(error));
    assert_eq!(scanner.finish(&mut builder), Err(error));
}

#[test]
fn a_bounded_text_is_cut_and_says_so() {
    struct Bounded(Vec<(String, bool)>);
    impl Watch for Bounded {
        fn member(&mut self, _: Node, _: &[u8]) -> Node {
            0
        }
        fn element(&mut self, _: Node) -> Node {
            CHILD
        }
        fn want(&mut self, _: Node) -> Want {
            Want::Text(3)
        }
        fn scalar(&mut self, _: Node, scalar: Scalar<'_>, _: Range<u64>) {
            let Scalar::Text { text, cut } = scalar else { panic!() };
            self.0.push((String::from_utf8(text.to_vec()).unwrap(), cut));
        }
    }
    let text = br#"["abc","abcd","a\u0062c","a\u0062cd",""]"#;
    for place in 0..text.len() {
        let mut bounded = Bounded(Vec::new());
        let mut scanner = Scanner::new();
        scanner.feed(&text[..place], &mut bounded).unwrap();
        scanner.feed(&text[place..], &mut bounded).unwrap();
        scanner.finish(&mut bounded).unwrap();
        let expected = [("abc", false), ("abc", true), ("abc", false), ("abc", true), ("", false)];
        let got: Vec<_> = bounded.0.iter().map(|(text, cut)| (text.as_str(), *cut)).collect();
        assert_eq!(got, expected, "{place}");
    }
}
