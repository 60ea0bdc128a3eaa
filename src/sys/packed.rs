//! Files that may be compressed, as the bytes that they hold.
//!
//! Owns telling gzip and zstd by their first bytes and the programs that unpack
//! them, which every distribution has (`gzip`) or can have (`zstd`). Nothing
//! unpacked is kept on disk.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::Root;
use super::exec::{Output, PATH};
use super::root::FileError;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip (RFC 1952).
    Gzip,
    /// zstd (RFC 8878).
    Zstd,
}

impl Packing {
    /// By the first bytes of a file.
    #[must_use]
    pub fn of(begin: &[u8]) -> Self {
        match begin {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// An open file; reading gives what it holds unpacked.
#[derive(Debug)]
pub struct Packed {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Plain(File),
    Program(Unpacker, Option<ChildStdout>),
}

/// The program that unpacks; it ends with this.
#[derive(Debug)]
struct Unpacker {
    name: &'static str,
    child: Child,
}

impl Packed {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read, or the program that unpacks it is not installed.
    pub fn open(root: &Root, path: &str) -> Result<Self, FileError> {
        let failed = |error| FileError::new("open", path, error);
        let mut file = File::open(root.path(path)).map_err(failed)?;
        let mut begin = Vec::new();
        (&file).take(4).read_to_end(&mut begin).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let source = match Packing::of(&begin).program() {
            None => Source::Plain(file),
            Some(name) => unpacking(name, file).map_err(failed)?,
        };
        Ok(Self { source })
    }

    /// Runs `program` with the unpacked content as its standard input, to its
    /// end. Both outputs together are expected to be small.
    ///
    /// # Errors
    /// When it cannot be started, or the unpacking failed.
    pub fn feed(self, program: &str, args: &[&str]) -> io::Result<Output> {
        let (input, unpacker) = match self.source {
            Source::Plain(file) => (Stdio::from(file), None),
            Source::Program(unpacker, output) => {
                (output.map_or_else(Stdio::null, Stdio::from), Some(unpacker))
            }
        };
        let done = clean(Command::new(program).args(args)).stdin(input).output();
        if let Some(mut unpacker) = unpacker {
            let status = unpacker.child.wait()?;
            // A reader that ended early breaks the pipe, and says why itself.
            if done.as_ref().is_ok_and(|done| done.status.success()) && !status.success() {
                return Err(io::Error::other(format!("{} could not unpack it ({status})", unpacker.name)));
            }
        }
        let done = done?;
        Ok(Output {
            code: done.status.code(),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }
}

fn unpacking(name: &'static str, file: File) -> io::Result<Source> {
    let mut command = Command::new(name);
    clean(&mut command).arg("-dcq").stdin(Stdio::from(file)).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other(format!("it is compressed, and {name} is not installed to unpack it"))
        }
        _ => error,
    })?;
    let output = child.stdout.take();
    Ok(Source::Program(Unpacker { name, child }, output))
}

/// The same clean environment as everything else that is run.
fn clean(command: &mut Command) -> &mut Command {
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8")
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::Plain(file) => file.read(buffer),
            Source::Program(_, output) => output.as_mut().map_or(Ok(0), |output| output.read(buffer)),
        }
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    /// `printf hello | gzip -n`
    const HELLO: [u8; 25] = [
        0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0,
        0, 0,
    ];

    fn file(bytes: &[u8]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::write(root.path("/f"), bytes).unwrap();
        (dir, root)
    }

    #[test]
    fn content_is_the_same_packed_or_not() {
        for bytes in [b"hello".as_slice(), &HELLO] {
            let (_dir, root) = file(bytes);
            let mut text = String::new();
            Packed::open(&root, "/f").unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
            let output = Packed::open(&root, "/f").unwrap().feed("cat", &[]).unwrap();
            assert_eq!((output.code, output.stdout.as_str()), (Some(0), "hello"));
        }
    }

    #[test]
    fn a_damaged_one_is_no_success() {
        let (_dir, root) = file(&HELLO[..20]);
        let error = Packed::open(&root, "/f").unwrap().feed("cat", &[]).unwrap_err();
        assert!(error.to_string().starts_with("gzip could not unpack it"), "{error}");
    }
}
