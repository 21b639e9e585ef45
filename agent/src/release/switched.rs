//! Tells when another hand may have switched a `current`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::RecursiveMode;
use tokio::sync::mpsc;

use crate::config::Component;
use crate::notice::{self, Rest, WatchError};

/// `ln -sfn` removes and makes the link, within microseconds.
const REST: Rest = Rest { quiet: Duration::from_millis(5), wait_max: Duration::from_millis(100) };

/// Watches the `current` link of every component. One message per burst; none is lost that matters, because whoever gets
/// it looks at all links.
///
/// # Errors
/// When a root does not exist or the kernel has no more watches.
pub fn watch<'a>(components: impl Iterator<Item = &'a Component>) -> Result<mpsc::Receiver<()>, WatchError> {
    let mut links: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    for component in components {
        links.entry(component.root.clone()).or_default().insert(component.current.clone().into());
    }
    let directories: Vec<_> = links.keys().map(|root| (root.clone(), RecursiveMode::NonRecursive)).collect();
    notice::watch(&directories, REST, move |event| event.paths.iter().any(|path| is_link(&links, path)))
}

fn is_link(links: &BTreeMap<PathBuf, BTreeSet<OsString>>, path: &Path) -> bool {
    let names = path.parent().and_then(|root| links.get(root));
    names.zip(path.file_name()).is_some_and(|(names, name)| names.contains(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "this test switches a link by another hand")]
    async fn a_switched_link_is_told() {
        let held = tempfile::tempdir().expect("a temporary directory");
        let root = held.path().canonicalize().expect("a path");
        let text = format!("name = 'web'\nenvironment = 'prod'\nroot = {root:?}\nunits = ['web.service']\n");
        let component = crate::config::parse_component(&text, &root.join("web.toml")).expect("a component");
        let mut switches = watch(std::iter::once(&component)).expect("watched");
        symlink("releases/1", root.join("next")).expect("a link");
        std::fs::rename(root.join("next"), root.join("current")).expect("switched");
        assert_eq!(switches.recv().await, Some(()));
    }

    #[test]
    fn neighbours_of_the_link_do_not_count() {
        let links = BTreeMap::from([(PathBuf::from("/srv/web"), BTreeSet::from([OsString::from("current")]))]);
        for (path, counts) in
            [("/srv/web/current", true), ("/srv/web/other", false), ("/srv/web", false), ("/srv/api/current", false)]
        {
            assert_eq!(is_link(&links, Path::new(path)), counts, "{path}");
        }
    }
}
