//! The layer table of `src/lib.rs`, the one place for files, processes,
//! environment and clock, and the style budget, read from the source.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may stop at the first surprise, and reads the source as it lies there"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Modules by layer, as in the table of `src/lib.rs`.
const LAYERS: [(u8, &[&str]); 6] = [
    (0, &["facts", "wire", "role", "paths", "error", "ordered"]),
    (1, &["config", "plan"]),
    (2, &["sys"]),
    (
        3,
        &[
            "observe",
            "enrol",
            "apply",
            "activate",
            "verify",
            "report",
            "ledger",
            "identity",
            "hold",
            "lease",
            "floor",
            "pause",
            "allow",
            "binary",
            "renames",
            "reset",
            "inventory",
            "mirrors",
            "containerd",
            "kube",
            "upgrade",
            "rotation",
            "snapshots",
        ],
    ),
    (4, &["boot", "daemon", "gate", "hatches"]),
    (5, &["cli", "logging", "lib", "main"]),
];
/// Records of L3 that the steps may share.
const RECORDS: [&str; 16] = [
    "binary",
    "ledger",
    "identity",
    "hold",
    "pause",
    "allow",
    "floor",
    "renames",
    "reset",
    "inventory",
    "mirrors",
    "containerd",
    "kube",
    "upgrade",
    "rotation",
    "snapshots",
];

/// What only `sys` may do, by the words that say it in code.
const HANDS: [&str; 14] = [
    "std::fs",
    "std::process",
    "std::env",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::os::",
    "SystemTime::now",
    "Instant::now()",
    "tokio::fs",
    "tokio::process",
    "tokio::net",
    "nix::",
    "thread::sleep",
];
/// File, words, reason.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    ("src/main.rs", "std::process", "ExitCode is the return type of `main`, and starts nothing"),
    ("src/cli/mod.rs", "std::process", "ExitCode is what `main` returns, and starts nothing"),
];
/// What the words and decisions never contain, beside [`HANDS`].
const IMPURE: [&str; 6] = ["tokio::", "async fn", "async move", "zbus::", "reqwest::", "tracing::"];

/// One source file without comments and without its test modules.
struct Source {
    path: String,
    module: String,
    text: String,
    code: String,
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of this package; members of the workspace have their own `src`.
fn sources() -> Vec<Source> {
    let src = repository().join("src");
    let mut open = vec![src.clone()];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() && !path.join("Cargo.toml").exists() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|end| end == "rs") && !is_test_file(&path) {
            found.push(source(&src, &path));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 60, "only {} files", found.len());
    found
}

/// Modules that exist in tests only: below `#[cfg(test)]` stands their `mod`
/// line, or the `#[path]` that names them, in a file beside them.
fn is_test_file(path: &Path) -> bool {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let names = [format!("mod {stem};"), format!("#[path = \"{stem}.rs\"]")];
    let beside = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let texts = beside.filter(|other| other.is_file()).map(|other| std::fs::read_to_string(other).unwrap());
    texts.into_iter().any(|text| {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let below =
            |at: usize| lines.iter().skip(at + 1).take(2).any(|line| names.iter().any(|name| name == line));
        lines.iter().enumerate().any(|(at, line)| *line == "#[cfg(test)]" && below(at))
    })
}

fn source(src: &Path, path: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap();
    let inside = path.strip_prefix(src).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    Source {
        path: format!("src/{}", inside.display()),
        module: first.trim_end_matches(".rs").to_owned(),
        code: without_tests(&without_comments(&text)),
        text,
    }
}

/// Comments and the content of texts become spaces: braces and words in them
/// say nothing about the code. Lines stay where they are.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            'r' if starts_raw(rest) => raw_length(rest),
            '"' => text_length(rest),
            '\'' => char_length(rest),
            _ => 0,
        };
        let (gone, kept) = if length == 0 { ("", first.len_utf8()) } else { (&rest[..length], length) };
        if gone.is_empty() {
            out.push(first);
        } else {
            out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = &rest[kept..];
    }
    out
}

fn starts_raw(rest: &str) -> bool {
    rest.starts_with("r\"") || rest.starts_with("r#\"")
}

fn raw_length(rest: &str) -> usize {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    let end = format!("\"{}", "#".repeat(hashes));
    let open = 2 + hashes;
    rest[open..].find(&end).map_or(rest.len(), |at| open + at + end.len())
}

fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character in quotes; 0 for a lifetime.
fn char_length(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[2..]
            .find('\'')
            .filter(|at| *at < 10)
            .map_or(0, |at| if rest[2..].starts_with('\'') { 4 } else { at + 3 }),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// Cuts every item below `#[cfg(test)]`, up to its closing brace or semicolon.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(begin) = out.find("#[cfg(test)]") {
        let end = item_end(&out, begin);
        let lines = out[begin..end].matches('\n').count();
        out.replace_range(begin..end, &"\n".repeat(lines));
    }
    out
}

fn item_end(code: &str, begin: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[begin..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if (c == '}' || c == ';') && depth == 0 {
            return begin + at + 1;
        }
    }
    code.len()
}

/// First modules that `code` names after `crate::`, groups included.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(word(rest)),
        }
    }
    found
}

/// Heads of `a::{b, c}, d}` up to the brace that closes the group.
fn group_heads(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut heads = Vec::new();
    let mut fresh = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && c.is_alphabetic() => {
                heads.extend(word(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    (!word.is_empty() && word.starts_with(|c: char| c.is_ascii_lowercase())).then_some(word)
}

fn layer(module: &str) -> u8 {
    let found = LAYERS.iter().find(|(_, modules)| modules.contains(&module));
    found.unwrap_or_else(|| panic!("module {module} stands in no row of the table")).0
}

fn allowed(from: &str, to: &str) -> bool {
    if from == to {
        return true;
    }
    match (layer(from), layer(to)) {
        // Chains of errors are printed everywhere.
        (2, _) => false,
        (3, 3) => RECORDS.contains(&to),
        (0, 0) => true,
        (4 | 5, other) => other <= layer(from),
        (here, there) => there < here,
    }
}

#[test]
fn no_module_uses_one_above_it() {
    let mut wrong = Vec::new();
    let mut edges = 0;
    for source in sources() {
        for to in
            imports(&source.code).iter().filter(|to| LAYERS.iter().any(|(_, all)| all.contains(&to.as_str())))
        {
            edges += 1;
            if !allowed(&source.module, to) {
                wrong.push(format!("{} uses crate::{to}", source.path));
            }
        }
    }
    assert!(edges > 150, "only {edges} edges were seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_the_library_is_the_one_that_is_checked() {
    let lib = std::fs::read_to_string(repository().join("src/lib.rs")).unwrap();
    for (number, modules) in LAYERS {
        let row = lib.lines().find(|line| line.starts_with(&format!("//! | L{number} "))).unwrap();
        for module in modules.iter().filter(|module| !["lib", "main"].contains(module)) {
            assert!(row.contains(&format!("`{module}`")), "{module} is not in the row of L{number}");
        }
    }
    for source in sources() {
        layer(&source.module);
    }
}

#[test]
fn only_sys_touches_files_processes_environment_and_clock() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources().iter().filter(|source| source.module != "sys") {
        for words in HANDS.iter().filter(|words| names(&source.code, words)) {
            match EXCEPTIONS.iter().find(|(path, what, _)| *path == source.path && what == words) {
                Some((path, what, reason)) => {
                    assert!(!reason.is_empty());
                    used.insert((*path, *what));
                }
                None => wrong.push(format!("{} uses {words}", source.path)),
            }
        }
    }
    let idle: Vec<_> = EXCEPTIONS.iter().filter(|(path, what, _)| !used.contains(&(*path, *what))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(idle.is_empty(), "exceptions that nothing needs: {idle:?}");
}

/// Whether `code` names `words` as a path of its own: `tokio::time::Instant::now()`
/// can be paused and is no `Instant::now()` of the system.
fn names(code: &str, words: &str) -> bool {
    let own = |at: usize| {
        !code[..at].chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    let tokio = words == "Instant::now()" && code.contains("tokio::time");
    let plain = code.match_indices(words).any(|(at, _)| own(at) && !tokio);
    plain || words.split_once("::").is_some_and(|(head, rest)| in_a_group(code, head, rest))
}

/// Whether an import like `std::{fs, io}` holds `rest`.
fn in_a_group(code: &str, head: &str, rest: &str) -> bool {
    let group = format!("use {head}::{{");
    let mut groups = code.match_indices(&group).map(|(at, _)| &code[at + group.len()..]);
    let first = rest.split("::").next().unwrap_or_default();
    !first.is_empty() && groups.any(|group| group_heads(group).iter().any(|name| name == first))
}

#[test]
fn words_and_decisions_are_pure() {
    let pure = |source: &&Source| layer(&source.module) <= 1;
    let mut wrong = Vec::new();
    for source in sources().iter().filter(pure) {
        for words in IMPURE.iter().chain(&HANDS).filter(|words| names(&source.code, words)) {
            wrong.push(format!("{} uses {words}", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_says_what_it_owns_and_no_file_is_too_long() {
    for source in sources() {
        assert!(source.text.starts_with("//!"), "{} does not begin with //!", source.path);
        let lines = source.text.lines().count();
        assert!(lines < 600, "{} has {lines} lines", source.path);
    }
}

/// Name and lines of every function, braces counted.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let code = &source.code;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word =
            code[..at].chars().next_back().is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
        let Some(name) = word(&code[at + 3..]).filter(|_| starts_word) else { continue };
        let end = item_end(code, at);
        if code[at..end].contains('{') {
            found.push((format!("{} {name}", source.path), code[at..end].matches('\n').count() + 1));
        }
    }
    found
}

#[test]
fn functions_keep_the_style_budget() {
    let mut all: Vec<(String, usize)> = sources().iter().flat_map(functions).collect();
    all.sort_by_key(|(_, lines)| *lines);
    assert!(all.len() > 500, "only {} functions were seen", all.len());
    let at = |percent: usize| all[(all.len() - 1) * percent / 100].1;
    assert!(at(50) <= 10, "the median function has {} lines", at(50));
    assert!(at(90) <= 30, "a tenth of the functions has more than {} lines", at(90));
    let long: Vec<_> = all.iter().filter(|(_, lines)| *lines > 65).collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let text = "use crate::{a::{b, c}, d};\n// crate::e {\nfn f<'x>() { let c = '{'; let s = \"}\\\"{\"; crate::g::h() }\n#[cfg(test)]\nmod tests { use crate::i; fn j() {} }\nfn k() {}\n";
    let code = without_tests(&without_comments(text));
    assert_eq!(imports(&code).into_iter().collect::<Vec<_>>(), ["a", "d", "g"]);
    assert_eq!(code.lines().count(), text.lines().count());
    let source = Source { path: "x".to_owned(), module: "x".to_owned(), text: text.to_owned(), code };
    assert_eq!(functions(&source), [("x f".to_owned(), 1), ("x k".to_owned(), 1)]);
    assert!(names("let a = std::fs::read(p)", "std::fs") && !names("mystd::fs", "std::fs"));
    assert!(names("use std::{io, fs};", "std::fs") && !names("use std::{io, fmt};", "std::fs"));
    assert!(
        !allowed("sys", "facts")
            && !allowed("apply", "verify")
            && allowed("apply", "ledger")
            && !allowed("plan", "sys")
    );
}
