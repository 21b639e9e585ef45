//! Judges files and directories by their owner and mode: what others can change or read is not used.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component as Part, Path, PathBuf};

use super::problem::ConfigProblem;

/// Permission to write for the group and for all others.
const OTHERS_WRITE: u32 = 0o022;
/// Any permission for the group and for all others.
const OTHERS: u32 = 0o077;
/// In such a directory nobody can rename or remove what is another's.
const STICKY: u32 = 0o1000;
/// Permission to run for anybody.
const RUN: u32 = 0o111;
/// Most symbolic links on one path: the kernel's own limit.
const LINKS_MAX: usize = 40;

/// Checks that a file or directory that holds a secret or state belongs to the agent's user (or to root) and that
/// nobody else can read or change it. Links are followed: what counts is what they lead to.
///
/// # Errors
/// When others can reach it, when it belongs to somebody else, or when it cannot be looked at; names it and the
/// command that mends it.
pub fn check_private(path: &Path) -> Result<(), ConfigProblem> {
    let metadata = path.metadata().map_err(|error| cannot_look(path, &error))?;
    owned(path, &metadata)?;
    if metadata.mode() & OTHERS != 0 {
        let message = format!("others can read or change it: its mode is {:04o}", metadata.mode() & 0o7777);
        let mode = if metadata.is_dir() { "0700" } else { "0600" };
        return Err(ConfigProblem::of_file(path, message, Some(format!("run `chmod {mode} {}`", path.display()))));
    }
    Ok(())
}

/// Checks an open file or directory of the configuration: it belongs to root or the agent, and only they can change it.
pub(super) fn judge(path: &Path, metadata: &Metadata) -> Result<(), ConfigProblem> {
    owned(path, metadata)?;
    if metadata.mode() & OTHERS_WRITE != 0 {
        let message = format!("others can change it: its mode is {:04o}", metadata.mode() & 0o7777);
        return Err(ConfigProblem::of_file(path, message, Some(format!("run `chmod go-w {}`", path.display()))));
    }
    Ok(())
}

/// Checks a directory and all that leads to it: others can neither change nor replace it.
pub(super) fn directory(path: &Path) -> Result<(), ConfigProblem> {
    let (found, metadata) = walk(path)?;
    if !metadata.is_dir() {
        return Err(ConfigProblem::of_file(&found, "it is not a directory", None));
    }
    judge(&found, &metadata)
}

/// Checks a program and all that leads to it: it can be run, and others can neither change nor replace it. Gives the
/// file that its links lead to.
pub(super) fn program(path: &Path) -> Result<PathBuf, ConfigProblem> {
    let (found, metadata) = walk(path)?;
    if !metadata.is_file() || metadata.mode() & RUN == 0 {
        return Err(ConfigProblem::of_file(&found, "it is not a program", None));
    }
    judge(&found, &metadata)?;
    Ok(found)
}

/// Follows an absolute path entry by entry, links included, and checks every directory on the way. Gives what it leads
/// to, which the caller judges.
fn walk(path: &Path) -> Result<(PathBuf, Metadata), ConfigProblem> {
    let mut left: Vec<PathBuf> = Vec::new();
    push_parts(&mut left, path);
    let mut at = PathBuf::from("/");
    let mut metadata = look(&at)?;
    let mut links = 0;
    while let Some(part) = left.pop() {
        passable(&at, &metadata)?;
        if part == Path::new("..") {
            at.pop();
            metadata = look(&at)?;
            continue;
        }
        let next = at.join(&part);
        let found = look(&next)?;
        if !found.is_symlink() {
            (at, metadata) = (next, found);
            continue;
        }
        owned(&next, &found)?;
        links += 1;
        if links > LINKS_MAX {
            return Err(ConfigProblem::of_file(path, "it leads through too many links", None));
        }
        let target = std::fs::read_link(&next).map_err(|error| cannot_look(&next, &error))?;
        push_parts(&mut left, &target);
        if target.is_absolute() {
            at = PathBuf::from("/");
            metadata = look(&at)?;
        }
    }
    Ok((at, metadata))
}

fn push_parts(left: &mut Vec<PathBuf>, path: &Path) {
    let parts = path.components().rev().filter_map(|part| match part {
        Part::Normal(name) => Some(PathBuf::from(name)),
        Part::ParentDir => Some(PathBuf::from("..")),
        Part::RootDir | Part::CurDir | Part::Prefix(_) => None,
    });
    left.extend(parts);
}

fn passable(path: &Path, metadata: &Metadata) -> Result<(), ConfigProblem> {
    if !metadata.is_dir() {
        return Err(ConfigProblem::of_file(path, "it is not a directory", None));
    }
    if metadata.mode() & STICKY != 0 { owned(path, metadata) } else { judge(path, metadata) }
}

fn owned(path: &Path, metadata: &Metadata) -> Result<(), ConfigProblem> {
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner == 0 || owner == user {
        return Ok(());
    }
    let message = format!("it belongs to the user {owner}, neither to root nor to the agent's user");
    Err(ConfigProblem::of_file(path, message, Some(format!("run `chown {user} {}`", path.display()))))
}

fn look(path: &Path) -> Result<Metadata, ConfigProblem> {
    path.symlink_metadata().map_err(|error| cannot_look(path, &error))
}

fn cannot_look(path: &Path, error: &std::io::Error) -> ConfigProblem {
    if error.kind() == std::io::ErrorKind::NotFound {
        ConfigProblem::of_file(path, "it does not exist", None)
    } else {
        ConfigProblem::of_file(path, format!("cannot look at it: {error}"), None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("the test owns it");
    }

    fn message(problem: Result<impl std::fmt::Debug, ConfigProblem>) -> String {
        problem.expect_err("it is refused").message
    }

    #[test]
    fn keys_and_state_that_others_reach_are_refused_in_every_mode() {
        let held = tempfile::tempdir().expect("a temporary directory");
        let key = held.path().join("agent.key");
        std::fs::write(&key, "secret").expect("written");
        for bits in 0..0o1000 {
            mode(&key, bits);
            assert_eq!(check_private(&key).is_err(), bits & 0o077 != 0, "{bits:o}");
        }
        mode(held.path(), 0o750);
        assert_eq!(message(check_private(held.path())), "others can read or change it: its mode is 0750");
        assert_eq!(message(check_private(&held.path().join("none"))), "it does not exist");
    }

    #[test]
    fn a_directory_is_refused_when_others_could_replace_anything_that_leads_to_it() {
        let held = tempfile::tempdir().expect("a temporary directory");
        let (outer, inner, link) =
            (held.path().join("outer"), held.path().join("outer/inner"), held.path().join("link"));
        std::fs::create_dir_all(&inner).expect("made");
        symlink("outer/../outer/inner", &link).expect("linked");
        mode(&inner, 0o755);
        mode(&outer, 0o755);
        assert_eq!(directory(&inner), Ok(()));
        assert_eq!(directory(&link), Ok(()));
        mode(&outer, 0o775);
        for path in [&inner, &link] {
            let problem = directory(path).expect_err("the group can replace `inner`");
            assert_eq!(
                (problem.file.as_path(), problem.message.as_str()),
                (&*outer, "others can change it: its mode is 0775")
            );
        }
        mode(&outer, 0o1777);
        assert_eq!(directory(&inner), Ok(()));
        assert_eq!(message(directory(&outer)), "others can change it: its mode is 1777");
    }

    #[test]
    fn links_in_a_circle_and_what_cannot_be_run_are_refused() {
        let held = tempfile::tempdir().expect("a temporary directory");
        let (circle, plain) = (held.path().join("circle"), held.path().join("plain"));
        symlink("circle", &circle).expect("linked");
        std::fs::write(&plain, "").expect("written");
        mode(&plain, 0o644);
        assert_eq!(message(program(&circle)), "it leads through too many links");
        assert_eq!(message(program(&plain)), "it is not a program");
        assert_eq!(message(program(&plain.join("x"))), "it is not a directory");
        mode(&plain, 0o755);
        assert_eq!(program(&plain), Ok(plain));
    }
}
