//! What strace has written, as calls.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Calls that change a file system, or write it through.
pub const CALLS: &str = "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,copy_file_range,rename,renameat,renameat2,link,linkat,\
    symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,mknodat,fsync,fdatasync,syncfs";

/// One call that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// Each file that it names, by its descriptor or its path, in their order.
    pub paths: Vec<PathBuf>,
    pub args: String,
    /// Whether it has begun, or ended, here.
    pub phase: Phase,
    /// The same for both phases of one call.
    pub id: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Begins,
    Ends,
}

impl Call {
    pub fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync" | "syncfs")
    }

    pub fn path(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
    }
}

/// Each call twice: where it begins and where it ends. One that failed is left out.
pub fn read(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    let mut failed = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(at) = open.remove(pid) else { continue };
            let mut end = calls[at].clone();
            if !succeeded(resumed) {
                failed.push(end.id);
            }
            end.phase = Phase::Ends;
            // a call whose arguments are known only at its end
            calls.push(end);
            continue;
        }
        let Some((name, args)) = rest.split_once('(') else { continue };
        let id = calls.len();
        let call = Call { name: name.to_owned(), paths: paths(args), args: args.to_owned(), phase: Phase::Begins, id };
        if args.ends_with("<unfinished ...>") {
            open.insert(pid, id);
            calls.push(call);
        } else if succeeded(args) {
            calls.push(call.clone());
            calls.push(Call { phase: Phase::Ends, ..call });
        }
    }
    calls.retain(|call| !failed.contains(&call.id));
    calls
}

fn succeeded(text: &str) -> bool {
    text.rsplit_once(" = ").is_some_and(|(_, result)| !result.starts_with('-') && !result.starts_with('?'))
}

/// `5</a/b>` and `"/a/b"`; a name below a directory's descriptor is joined with it.
fn paths(args: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut directory: Option<PathBuf> = None;
    let mut rest = args;
    while let Some(at) = rest.find(['<', '"']) {
        let end = if rest[at..].starts_with('<') { '>' } else { '"' };
        let Some(length) = rest[at + 1..].find(end) else { break };
        let text = &rest[at + 1..at + 1 + length];
        rest = &rest[at + length + 2..];
        if end == '>' {
            if text.starts_with('/') {
                // it is the last one if no name follows
                found.extend(directory.replace(text.into()));
            }
        } else if !text.is_empty() {
            found.push(directory.take().unwrap_or_default().join(text));
        }
    }
    found.extend(directory);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strace_writes_is_read() {
        let text = "10 openat(AT_FDCWD</w>, \"/t/a#1\", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = 9</t/a#1>\n\
                    11 fsync(9</t/a#1> <unfinished ...>\n\
                    10 mkdir(\"/t/b\", 0777) = -1 EEXIST (File exists)\n\
                    11 <... fsync resumed>) = 0\n\
                    10 renameat2(7</t>, \"x\", 8</u>, \"y\", RENAME_EXCHANGE) = 0\n\
                    10 write(9</t/a#1>, \"\"..., 5) = 5\n\
                    10 +++ exited with 0 +++\n";
        let calls = read(text);
        let shown: Vec<_> = calls
            .iter()
            .map(|c| {
                (c.name.as_str(), c.phase == Phase::Begins, c.paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("openat", true, "/t/a#1 /t/a#1".to_owned()),
                ("openat", false, "/t/a#1 /t/a#1".to_owned()),
                ("fsync", true, "/t/a#1".to_owned()),
                ("fsync", false, "/t/a#1".to_owned()),
                ("renameat2", true, "/t/x /u/y".to_owned()),
                ("renameat2", false, "/t/x /u/y".to_owned()),
                ("write", true, "/t/a#1".to_owned()),
                ("write", false, "/t/a#1".to_owned()),
            ]
        );
    }
}
