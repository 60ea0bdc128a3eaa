//! What the installed containerd makes of a file.
//!
//! Owns asking it (`config dump`, which touches no store), and the memory of its
//! answers by content of the file and identity of the program, so that a quiet
//! pass starts nothing. A refusal and a failure to ask are remembered for one
//! boot: both may have been the host's fault.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Chain;
use crate::paths;
use crate::plan::containerd::dump;
use crate::sys::root::Stat;
use crate::sys::{Root, atomic, exec, host, statefile};
use crate::wire::secret::sha256_hex;

/// containerd of a cold disk takes seconds to load, and prints at once then.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many files one program's answers are remembered of.
const REMEMBERED: usize = 6;
/// What is kept of a program's last words, in letters.
const LAST_WORDS: usize = 300;

/// What containerd makes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// Every key is in force as we wrote it.
    Accepted,
    /// Says what is not, or why the whole file is not read.
    Refused(Vec<String>),
    /// It could not be asked; says why.
    Unknown(String),
}

/// Answers of one program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Memory {
    program: Program,
    answers: Vec<Answer>,
}

/// Another file under the same name is another program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Program {
    path: String,
    dev: u64,
    inode: u64,
    size: u64,
    mtime: i64,
    ctime: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    sha256: String,
    boot_id: String,
    verdict: Verdict,
}

impl Program {
    fn new(path: &str, stat: &Stat) -> Self {
        let Stat { dev, inode, size, mtime, ctime, .. } = *stat;
        Self { path: path.to_owned(), dev, inode, size, mtime, ctime }
    }
}

impl Memory {
    fn of(root: &Root, program: Program) -> Self {
        let memory: Option<Self> =
            statefile::load(root, paths::CONTAINERD_CHECKED).ok().and_then(statefile::Loaded::value);
        let fresh = || Self { program: program.clone(), answers: Vec::new() };
        memory.filter(|memory| memory.program == program).unwrap_or_else(fresh)
    }

    fn answer(&self, sha256: &str, boot_id: &str) -> Option<Verdict> {
        let answer = self.answers.iter().find(|answer| answer.sha256 == sha256)?;
        let holds = answer.verdict == Verdict::Accepted || answer.boot_id == boot_id;
        holds.then(|| answer.verdict.clone())
    }

    fn remember(&mut self, answer: Answer) {
        self.answers.retain(|known| known.sha256 != answer.sha256);
        self.answers.push(answer);
        let too_many = self.answers.len().saturating_sub(REMEMBERED);
        self.answers.drain(..too_many);
    }
}

/// Forgets every answer: a person wants it tried again.
pub fn forget(root: &Root) {
    let _ = root.remove_file(paths::CONTAINERD_CHECKED);
    let _ = root.remove_file(&format!("{}.prev", paths::CONTAINERD_CHECKED));
}

/// What `program` makes of a file with these bytes, asked once.
pub(super) async fn ask(root: &Root, program: &str, bytes: &[u8]) -> Verdict {
    let stat = match root.stat(program) {
        Ok(Some(stat)) => stat,
        Ok(None) => return Verdict::Unknown(format!("there is no program {program}")),
        Err(error) => return Verdict::Unknown(Chain(&error).to_string()),
    };
    let mut memory = Memory::of(root, Program::new(program, &stat));
    let (sha256, boot_id) = (sha256_hex(bytes), host::boot_id(root).unwrap_or_default());
    if let Some(verdict) = memory.answer(&sha256, &boot_id) {
        return verdict;
    }
    if !root.is_host() {
        return Verdict::Unknown("nothing of another root can be run here".to_owned());
    }
    let verdict = dumped(root, program, bytes).await;
    memory.remember(Answer { sha256, boot_id, verdict: verdict.clone() });
    // Asking again costs time, nothing else.
    if root.make_dir(paths::STATE_DIR, 0o700).is_ok() {
        let _ = statefile::store(root, paths::CONTAINERD_CHECKED, &memory);
    }
    verdict
}

async fn dumped(root: &Root, program: &str, bytes: &[u8]) -> Verdict {
    let candidate = paths::CONTAINERD_CANDIDATE;
    let written = root
        .ensure_dir(paths::RUN_DIR)
        .and_then(|()| atomic::write_volatile(root, candidate, bytes, 0o600).map(|_| ()));
    if let Err(error) = written {
        return Verdict::Unknown(Chain(&error).to_string());
    }
    let path = root.path(candidate).to_string_lossy().into_owned();
    let output = exec::run(program, &["--config", &path, "config", "dump"], DEADLINE).await;
    let _ = root.remove_file(candidate);
    match output {
        Ok(output) => judge(&String::from_utf8_lossy(bytes), &output),
        Err(error) => Verdict::Unknown(Chain(&error).to_string()),
    }
}

/// A program that was killed says nothing about the file.
fn judge(ours: &str, output: &exec::Output) -> Verdict {
    match output.code {
        None => Verdict::Unknown("`containerd config dump` was ended by a signal".to_owned()),
        Some(0) => match dump::differences(ours, &output.stdout) {
            Ok(differences) if differences.is_empty() => Verdict::Accepted,
            Ok(differences) => Verdict::Refused(differences),
            Err(why) => Verdict::Unknown(why),
        },
        // Its own way to say no; a Go program that breaks down ends with another code.
        Some(code @ 1) => {
            let said = output.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            let said: String = said.chars().take(LAST_WORDS).collect();
            Verdict::Refused(vec![format!("`containerd config dump` ended with {code}: {said}")])
        }
        Some(code) => Verdict::Unknown(format!("`containerd config dump` broke down with {code}")),
    }
}

/// As if `program` had been asked in this boot and had refused the file.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
pub(super) fn refused_before(root: &Root, program: &str, bytes: &[u8]) {
    let mut memory = Memory::of(root, Program::new(program, &root.stat(program).unwrap().unwrap()));
    let (sha256, boot_id) = (sha256_hex(bytes), host::boot_id(root).unwrap_or_default());
    memory.remember(Answer { sha256, boot_id, verdict: Verdict::Refused(vec!["k".to_owned()]) });
    root.make_dir(paths::STATE_DIR, 0o700).unwrap();
    statefile::store(root, paths::CONTAINERD_CHECKED, &memory).unwrap();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const OURS: &str = "version = 2\n[plugins.x]\na = \"b\"\n";

    struct Host {
        _dir: tempfile::TempDir,
        root: Root,
        program: String,
    }

    /// A containerd that counts how often it is asked, and then does `does`.
    fn host(does: &str) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root.ensure_dir("/bin").unwrap();
        root.ensure_dir("/proc/sys/kernel/random").unwrap();
        let host = Host { _dir: dir, program: "/bin/containerd".to_owned(), root };
        host.boot("one");
        host.install(does);
        host
    }

    impl Host {
        fn install(&self, does: &str) {
            let asked = self.root.path("/asked");
            let text = format!("#!/bin/sh\necho x >>{}\n{does}\n", asked.display());
            atomic::write(&self.root, "/bin/containerd", text.as_bytes(), 0o755).unwrap();
        }

        fn boot(&self, id: &str) {
            atomic::write(&self.root, "/proc/sys/kernel/random/boot_id", id.as_bytes(), 0o444).unwrap();
        }

        async fn ask(&self, bytes: &str) -> Verdict {
            // The program is started by its real path.
            let real = self.root.path(&self.program).to_string_lossy().into_owned();
            let stat = self.root.stat(&self.program).unwrap().unwrap();
            let mut memory = Memory::of(&self.root, Program::new(&self.program, &stat));
            let sha256 = sha256_hex(bytes.as_bytes());
            let boot_id = host::boot_id(&self.root).unwrap();
            if let Some(known) = memory.answer(&sha256, &boot_id) {
                return known;
            }
            let verdict = dumped(&self.root, &real, bytes.as_bytes()).await;
            memory.remember(Answer { sha256, boot_id, verdict: verdict.clone() });
            self.root.make_dir(paths::STATE_DIR, 0o700).unwrap();
            statefile::store(&self.root, paths::CONTAINERD_CHECKED, &memory).unwrap();
            verdict
        }

        fn asked(&self) -> usize {
            self.root.read_text("/asked").unwrap().unwrap_or_default().lines().count()
        }
    }

    #[tokio::test]
    async fn a_file_that_is_printed_as_it_is_was_taken_and_is_not_asked_about_again() {
        let host = host("cat \"$2\"");
        assert_eq!(host.ask(OURS).await, Verdict::Accepted);
        host.boot("two");
        assert_eq!(host.ask(OURS).await, Verdict::Accepted);
        assert_eq!(host.asked(), 1);
        assert!(!host.root.exists(paths::CONTAINERD_CANDIDATE));
        // Another program under the same name is asked anew.
        host.install("cat \"$2\" # upgraded");
        assert_eq!(host.ask(OURS).await, Verdict::Accepted);
        assert_eq!(host.asked(), 2);
        forget(&host.root);
        assert_eq!(host.ask(OURS).await, Verdict::Accepted);
        assert_eq!(host.asked(), 3);
    }

    #[tokio::test]
    async fn what_is_dropped_is_refused_although_the_exit_code_is_0_and_asked_again_in_another_boot() {
        let host = host("echo 'version = 2'");
        let Verdict::Refused(why) = host.ask(OURS).await else { panic!("accepted") };
        assert_eq!(why, ["plugins.x.a: ours \"b\", containerd's nothing"]);
        assert!(matches!(host.ask(OURS).await, Verdict::Refused(_)));
        assert_eq!(host.asked(), 1);
        host.boot("two");
        assert!(matches!(host.ask(OURS).await, Verdict::Refused(_)));
        assert_eq!(host.asked(), 2);
    }

    #[tokio::test]
    async fn an_exit_code_refuses_with_the_last_words() {
        let host = host("echo warning >&2; echo 'containerd: unsupported config version 3' >&2; exit 1");
        let Verdict::Refused(why) = host.ask(OURS).await else { panic!("accepted") };
        assert!(why[0].ends_with("ended with 1: containerd: unsupported config version 3"), "{why:?}");
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_asked_is_no_evidence() {
        assert!(matches!(host("kill -KILL $$").ask(OURS).await, Verdict::Unknown(_)));
        assert!(matches!(host("echo '{'").ask(OURS).await, Verdict::Unknown(_)));
        let foreign = host("");
        atomic::write(&foreign.root, "/bin/containerd", b"\x7fELF of another machine", 0o755).unwrap();
        assert!(matches!(foreign.ask(OURS).await, Verdict::Unknown(_)));
        assert!(matches!(ask(&foreign.root, "/no/such", b"").await, Verdict::Unknown(_)));
    }

    #[test]
    fn only_the_newest_answers_stay() {
        let mut memory = Memory::default();
        for number in 0..20 {
            let sha256 = number.to_string();
            memory.remember(Answer { sha256, boot_id: String::new(), verdict: Verdict::Accepted });
        }
        assert_eq!(memory.answers.len(), REMEMBERED);
        assert_eq!(memory.answer("19", ""), Some(Verdict::Accepted));
        assert_eq!(memory.answer("3", ""), None);
    }
}
