#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;

/// What stands for each key, `|` between the arguments of a list.
fn shown(text: &str) -> String {
    let pairs = read(text).unwrap();
    let lines = pairs.iter().map(|(key, values)| format!("{key}={}", values.join("|")));
    lines.collect::<Vec<_>>().join(" ")
}

/// Each row was put before gopkg.in/yaml.v2 v2.4.0 and k3s's conversion.
#[test]
fn plain_words_are_read_as_k3s_reads_them() {
    let rows = [
        ("y", "true"),
        ("Yes", "true"),
        ("oN", "oN"),
        ("off", "false"),
        ("tRUE", "tRUE"),
        ("012", "10"),
        ("0o12", "10"),
        ("-0O17", "-15"),
        ("08", "8"),
        ("0644", "420"),
        ("0x1F", "31"),
        ("0X_f", "15"),
        ("0b11", "3"),
        ("1_000", "1000"),
        ("1__0", "10"),
        ("_1", "_1"),
        ("0777_", "511"),
        ("+1", "1"),
        ("-0", "0"),
        ("-0.0", "-0"),
        ("~", ""),
        ("null", ""),
        ("1.10", "1.1"),
        ("1.0", "1"),
        ("5.", "5"),
        ("1e3", "1000"),
        ("1e6", "1e+06"),
        ("1234567.5", "1.2345675e+06"),
        ("0.00001", "1e-05"),
        (".5", "0.5"),
        ("1e400", "1e400"),
        (".inf", "+Inf"),
        ("12:30:45", "12:30:45"),
        ("2001-01-01", "2001-01-01"),
        ("::1", "::1"),
        ("=", "="),
        ("a #b", "a"),
        ("10.42.0.0/16", "10.42.0.0/16"),
        ("123456789012345678901234567890", "1.2345678901234568e+29"),
        ("18446744073709551615", "18446744073709551615"),
        ("9223372036854775808", "9223372036854775808"),
        ("-9223372036854775809", "-9.223372036854776e+18"),
        ("!x", ""),
        ("!x yes", "yes"),
        ("!!str yes", "yes"),
        ("'012'", "012"),
        ("\"  x  \"", "x"),
        ("{a: yes}", "[{a true}]"),
        ("[[1, 2], {a: 012}, ~, []]", "1|[{a 10}]||"),
    ];
    for (written, wanted) in rows {
        assert_eq!(shown(&format!("k: {written}\n")), format!("k={wanted}"), "{written:?}");
    }
}

#[test]
fn documents_are_read_as_k3s_reads_them() {
    let rows = [
        ("", ""),
        ("# only\n", ""),
        ("---\n", ""),
        ("~\n", ""),
        ("\u{feff}a: 1\r\nb: 2\r\n", "a=1 b=2"),
        ("a: 1\na: 2\n", "a=1 a=2"),
        ("a: [1]\n---\nb: 2\n", "a=1"),
        ("yes: 1\n012: 2\n", "true=1 10=2"),
        ("<<: {a: 1}\nb: 2\n", "b=2"),
        ("a: &x 012\nb: *x\n", "a=10 b=10"),
        ("a: &x [y, 2]\nb: *x\n", "a=true|2 b=true|2"),
        ("a: |\n  one\n  two\nb: >\n  one\n  two\n", "a=one\ntwo b=one two"),
        ("a:\n- x\n- y: z\nb:\n", "a=x|[{true z}] b="),
    ];
    for (text, wanted) in rows {
        assert_eq!(shown(text), wanted, "{text:?}");
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    for text in [
        "- a\n",
        "a\n",
        "a: @x\n",
        "a: `x\n",
        "<<: 1\n",
        "a: *x\n",
        "a: [1\n",
        "a: &b:c d\n",
        "a: \"x\" y\n",
        "a: !!int 5\n",
        "a: !!binary aGk=\n",
        "a: b: c\n",
    ] {
        assert!(read(text).is_err(), "{text:?}");
    }
    let more = (1..40).map(|at| format!("a{at}: &a{at} [*a{}, *a{}]\n", at - 1, at - 1));
    let bomb = format!("a0: &a0 [x]\n{}", more.collect::<String>());
    assert!(read(&bomb).unwrap_err().to_string().contains("too many aliases"));
}
