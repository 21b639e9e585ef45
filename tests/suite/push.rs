//! Pushes to a real agent: what is sent, what is taken up, what is refused, and what is left of it.
#![expect(clippy::disallowed_methods, reason = "this suite makes releases and looks at what real agents lay down")]
#![expect(
    clippy::unwrap_used,
    reason = "the helpers belong to the tests, and a failed step of a test is a failed test"
)]

#[cfg(target_arch = "x86_64")]
#[path = "push/sweep.rs"]
mod sweep;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use rbctl::fleet::connect::{Deadlines, client, connect};
use rollback::model::digest::Digest;
use rollback::wire::v1;
use rollback::wire::v1::offered_entry::Kind;
use rollback::wire::v1::push_event::Event;
use rollback::wire::v1::push_request::What;
use rollback_tests::bed::{Agent, Bed, LIMIT, Places, agent_program};
use rollback_tests::images::{self, FileSystem, Image, ImageSpec};
use rollback_tests::installed::{COMPONENT, Installed, real_hosts};
use rollback_tests::skip::skipped;
use rollback_tests::wait::wait_until;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// A bed with a running agent; reports the test when there is no agent to run.
fn bed(name: &str) -> Option<(Bed, Agent)> {
    bed_with(name, "")
}

fn bed_with(name: &str, lines: &str) -> Option<(Bed, Agent)> {
    let Some(program) = agent_program() else {
        skipped(name, "needs `rb-agent`, which `cargo build` makes");
        return None;
    };
    let bed = Bed::new(program, Places::Plain);
    if !lines.is_empty() {
        bed.configure_further(lines);
    }
    let agent = bed.start();
    Some((bed, agent))
}

/// Makes what is pushed: a program that runs, and `files` others, the first `changed` of which are like no other.
fn dist(bed: &Bed, name: &str, files: usize, changed: usize) -> PathBuf {
    let root = bed.scratch().join(name);
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("lib/deep")).unwrap();
    fs::copy("/bin/sleep", root.join("bin/service")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("NAME"), name).unwrap();
    symlink("bin/service", root.join("start")).unwrap();
    symlink("../../NAME", root.join("lib/deep/name")).unwrap();
    for nth in 0..files {
        let content = if nth < changed { format!("{name} {nth}") } else { format!("all {nth}") };
        fs::write(root.join(format!("lib/file{nth}")), content.repeat(50)).unwrap();
    }
    fs::set_permissions(root.join("lib/deep"), PermissionsExt::from_mode(0o750)).unwrap();
    root
}

fn push(bed: &Bed, source: &Path, further: &[&str]) -> Output {
    let source = source.display().to_string();
    bed.rbctl(&[&["push", &source, "-o", "json"][..], further].concat())
}

fn answer(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str::<Value>(&text).unwrap()["hosts"][0].clone()
}

/// The code of a refusal.
fn refusal(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_ne!(output.status.code(), Some(0), "{text}");
    let document: Value = serde_json::from_str(&text).unwrap();
    document["hosts"][0]["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// What lies in the releases directory.
fn releases(bed: &Bed) -> Vec<String> {
    let entries = fs::read_dir(bed.app().join("releases")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits until the times of a release are old enough to be trusted, and has the agent record them.
fn settle(bed: &Bed, release: &str) {
    let path = bed.app().join("releases").join(release);
    let moved = fs::metadata(path).unwrap();
    let moved = Duration::new(moved.ctime().unsigned_abs(), moved.ctime_nsec().try_into().unwrap());
    let is_old =
        || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() > moved + Duration::from_millis(100);
    wait_until(LIMIT, "the times of the release to settle", is_old).unwrap();
    assert_eq!(answer(&bed.rbctl(&["verify", release, "-o", "json"]))["intact"], true);
}

fn counted(answer: &Value, what: &str) -> u64 {
    answer[what]["files"].as_u64().unwrap()
}

fn same(one: &Path, other: &Path) -> bool {
    Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]).status().unwrap().success()
}

fn entry(path: &str, mode: u32, kind: Kind) -> v1::OfferedEntry {
    v1::OfferedEntry { path: path.into(), mode, kind: Some(kind) }
}

fn file(path: &str, content: &str) -> v1::OfferedEntry {
    let file = v1::OfferedFile {
        bytes: content.len() as u64,
        content: Digest::of(content.as_bytes()).as_bytes().to_vec(),
        modified: Some(rollback::convert::time_out(jiff::Timestamp::UNIX_EPOCH)),
    };
    entry(path, 0o644, Kind::File(file))
}

fn top() -> v1::OfferedEntry {
    entry("", 0o755, Kind::Directory(v1::Empty {}))
}

fn offer(release: &str, entries: Vec<v1::OfferedEntry>) -> Vec<What> {
    let header = v1::PushHeader { release: release.to_owned(), ..v1::PushHeader::default() };
    let entries = v1::OfferedEntries { entries };
    vec![What::Header(header), What::Entries(entries), What::Offered(v1::Empty {})]
}

fn content(of: &str, data: &str) -> What {
    What::Content(v1::PushContent {
        content: Digest::of(of.as_bytes()).as_bytes().to_vec(),
        data: data.as_bytes().to_vec(),
    })
}

/// Speaks with the agent without the client's checks: sends all of it and reads to the end.
fn raw(bed: &Bed, messages: Vec<What>) -> Result<Vec<Event>, Status> {
    let speaking = async {
        let channel = connect(&bed.target(), None, Deadlines::default()).await.unwrap();
        let messages = messages.into_iter().map(|what| v1::PushRequest { what: Some(what) });
        let mut events = client(channel).push_release(tokio_stream::iter(messages)).await?.into_inner();
        let mut told = Vec::new();
        while let Some(event) = events.next().await {
            told.extend(event?.event);
        }
        Ok(told)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, speaking).await.unwrap() })
}

/// A push whose stream stays open.
struct Speaking {
    runtime: tokio::runtime::Runtime,
    sender: mpsc::Sender<v1::PushRequest>,
    task: tokio::task::JoinHandle<Result<(), Status>>,
}

impl Speaking {
    fn begin(bed: &Bed, messages: Vec<What>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, waiting) = mpsc::channel(16);
        for what in messages {
            sender.try_send(v1::PushRequest { what: Some(what) }).unwrap();
        }
        let target = bed.target();
        let task = runtime.spawn(async move {
            let channel = connect(&target, None, Deadlines::default()).await.unwrap();
            let mut events = client(channel).push_release(ReceiverStream::new(waiting)).await?.into_inner();
            while let Some(event) = events.next().await {
                event?;
            }
            Ok(())
        });
        Self { runtime, sender, task }
    }

    /// Waits until the agent has ended it.
    fn end(self) -> Result<(), Status> {
        let ended = self.runtime.block_on(self.task).unwrap();
        drop(self.sender);
        ended
    }
}

/// Makes three small files to be pushed.
fn thirds(bed: &Bed) -> PathBuf {
    let source = bed.scratch().join("thirds");
    fs::create_dir(&source).unwrap();
    fs::set_permissions(&source, PermissionsExt::from_mode(0o755)).unwrap();
    for (name, content) in [("a", "first"), ("b", "second"), ("c", "third")] {
        fs::write(source.join(name), content).unwrap();
        fs::set_permissions(source.join(name), PermissionsExt::from_mode(0o644)).unwrap();
    }
    source
}

/// What a push of these has sent when half of it is there.
fn half(release: &str) -> Vec<What> {
    let entries = vec![top(), file("a", "first"), file("b", "second"), file("c", "third")];
    [offer(release, entries), vec![content("first", "first"), content("second", "sec")]].concat()
}

fn code(result: Result<Vec<Event>, Status>) -> String {
    let status = result.expect_err("it is refused");
    let Some(refusal) = status.metadata().get_bin("refusal-bin") else { return format!("{:?}", status.code()) };
    let refusal = <v1::Refusal as prost::Message>::decode(refusal.to_bytes().unwrap()).unwrap();
    refusal.code
}

#[test]
fn only_what_has_changed_is_sent_and_the_release_can_be_deployed() {
    let Some((bed, _agent)) = bed("only_what_has_changed_is_sent_and_the_release_can_be_deployed") else { return };
    let first = dist(&bed, "one", 200, 0);
    let told = answer(&push(&bed, &first, &["--version", "1.0", "--git-sha", "4f2a9c1", "--note", "OPS-18"]));
    // `bin/service` is in every release already, and an empty file needs no sending.
    assert_eq!((counted(&told, "files"), counted(&told, "sent"), counted(&told, "shared")), (203, 201, 2), "{told}");
    let second = dist(&bed, "two", 200, 2);
    let told = answer(&push(&bed, &second, &["--version", "2.0", "--name", "second"]));
    assert_eq!((counted(&told, "sent"), counted(&told, "shared")), (3, 200), "{told}");
    assert!(told["sent"]["bytes"].as_u64().unwrap() * 20 < told["files"]["bytes"].as_u64().unwrap(), "{told}");
    for (from, name) in [(&first, "1.0"), (&second, "second")] {
        assert!(same(from, &bed.app().join("releases").join(name)), "{name}");
    }
    assert_eq!(releases(&bed), ["1.0", "r1", "r2", "r3", "second"]);
    let laid = bed.app().join("releases/1.0");
    assert_eq!(fs::metadata(laid.join("lib/deep")).unwrap().permissions().mode() & 0o7777, 0o750);
    let times = [first.join("NAME"), laid.join("NAME")].map(|path| fs::metadata(path).unwrap().modified().unwrap());
    assert_eq!(times[0], times[1], "files keep their times");
    let verified = bed.rbctl(&["verify", "1.0", "-o", "json"]);
    let release = answer(&verified)["release"]["manifest"].clone();
    assert_eq!(
        (&release["origin"], &release["git_sha"], &release["notes"]),
        (&"pushed".into(), &"4f2a9c1".into(), &"OPS-18".into())
    );
    assert_eq!(release["created_by"], format!("local:uid={}", nix::unistd::geteuid()));
    let deployed = bed.rbctl(&["deploy", "second", "--watch", "1s", "--yes"]);
    assert_eq!(deployed.status.code(), Some(0), "{}", String::from_utf8_lossy(&deployed.stderr));
    assert_eq!(bed.current().as_deref(), Ok("second"));
    assert_eq!(bed.audit(), Ok(true));
}

#[test]
fn the_same_again_does_nothing_and_another_content_does_not_get_its_name() {
    let Some((bed, _agent)) = bed("the_same_again_does_nothing_and_another_content_does_not_get_its_name") else {
        return;
    };
    let first = dist(&bed, "one", 3, 0);
    assert_eq!(answer(&push(&bed, &first, &["--version", "1.0"]))["known"], false);
    assert_eq!(answer(&push(&bed, &first, &["--version", "1.0"]))["known"], true);
    let second = dist(&bed, "two", 3, 3);
    assert_eq!(refusal(&push(&bed, &second, &["--version", "1.0"])), "NAME_TAKEN");
    assert_eq!(refusal(&push(&bed, &second, &["--version", "r1"])), "NAME_TAKEN");
    fs::create_dir(bed.app().join("releases/by-hand")).unwrap();
    assert_eq!(refusal(&push(&bed, &second, &["--version", "by-hand"])), "NAME_TAKEN");
    assert!(same(&first, &bed.app().join("releases/1.0")));
    fs::write(bed.app().join("releases/1.0/NAME"), "changed by somebody").unwrap();
    assert_eq!(refusal(&push(&bed, &first, &["--version", "1.0"])), "TARGET_UNFIT");
    // The same files under another name are another release, and all of them are there.
    let told = answer(&push(&bed, &second, &["--version", "2.0"]));
    let again = answer(&push(&bed, &second, &["--version", "2.0", "--name", "2.0-again"]));
    assert_eq!((counted(&again, "sent"), &again["tree"]), (0, &told["tree"]));
}

#[test]
fn what_is_quarantined_is_not_laid_down_under_any_name() {
    let Some((bed, _agent)) = bed("what_is_quarantined_is_not_laid_down_under_any_name") else { return };
    let source = dist(&bed, "one", 3, 0);
    answer(&push(&bed, &source, &["--version", "1.0"]));
    let added = bed.rbctl(&["quarantine", "add", "1.0", "--reason", "loses orders"]);
    assert_eq!(added.status.code(), Some(0), "{}", String::from_utf8_lossy(&added.stderr));
    for name in ["1.0", "other"] {
        assert_eq!(refusal(&push(&bed, &source, &["--version", "1.0", "--name", name])), "TARGET_UNFIT");
    }
    assert_eq!(releases(&bed), ["1.0", "r1", "r2", "r3"]);
}

#[test]
fn archives_are_laid_down_as_directories_are() {
    let Some((bed, _agent)) = bed("archives_are_laid_down_as_directories_are") else { return };
    let source = dist(&bed, "one", 20, 0);
    let expected = answer(&push(&bed, &source, &["--version", "1.0"]))["tree"].clone();
    for (name, arguments) in [("a.tar", "-cf"), ("a.tar.gz", "-czf"), ("b.tar", "-cf")] {
        let archive = bed.scratch().join(name);
        let mut tar = Command::new("tar");
        tar.arg(arguments).arg(&archive);
        let strip = if name == "b.tar" {
            tar.arg("-C").arg(bed.scratch()).arg("one");
            "1"
        } else {
            tar.arg("-C").arg(&source).arg(".");
            "0"
        };
        assert!(tar.status().unwrap().success());
        let told = answer(&push(&bed, &archive, &["--version", name, "--strip-components", strip]));
        assert_eq!((&told["tree"], counted(&told, "sent")), (&expected, 0), "{name}");
        assert!(same(&source, &bed.app().join("releases").join(name)), "{name}");
    }
}

#[test]
fn a_push_goes_on_where_the_agent_was_killed() {
    let Some((bed, agent)) = bed("a_push_goes_on_where_the_agent_was_killed") else { return };
    let source = thirds(&bed);
    let staging = || releases(&bed).into_iter().find(|name| name.starts_with(".push-"));
    let staged = |name: &str| {
        let path = staging().map(|staging| bed.app().join("releases").join(staging).join(name));
        path.and_then(|path| fs::metadata(path).ok())
    };
    let speaking = Speaking::begin(&bed, half("1.0"));
    wait_until(LIMIT, "half of it to be staged", || staged("b").is_some_and(|found| found.len() == 3)).unwrap();
    assert_eq!(refusal(&push(&bed, &source, &["--version", "1.0"])), "PUSH_RUNS");
    assert_eq!(releases(&bed).len(), 4, "nothing but the staging directory has come");
    let staging_mode = fs::metadata(bed.app().join("releases").join(staging().unwrap())).unwrap().permissions().mode();
    assert_eq!(staging_mode & 0o7777, 0o700, "nobody else sees it");
    let first = staged("a").unwrap().ino();
    drop(agent);
    assert!(speaking.end().is_err());
    let _agent = bed.start();
    assert_eq!(releases(&bed).len(), 4, "a start adopts nothing of it");
    let told = answer(&push(&bed, &source, &["--version", "2.0", "--name", "another"]));
    let counts = ["resumed", "sent", "shared"].map(|what| counted(&told, what));
    assert_eq!(counts, [1, 2, 0], "what was whole is not sent again, half a file is: {told}");
    assert_eq!(fs::metadata(bed.app().join("releases/another/a")).unwrap().ino(), first);
    assert!(same(&source, &bed.app().join("releases/another")));
    assert_eq!(staging(), None);
}

#[test]
fn hostile_offers_are_refused_and_leave_nothing() {
    let Some((bed, _agent)) = bed("hostile_offers_are_refused_and_leave_nothing") else { return };
    let directory = |path: &str| entry(path, 0o755, Kind::Directory(v1::Empty {}));
    let link = |path: &str, target: &str| entry(path, 0o777, Kind::Link(target.into()));
    let with_mode = |mode, entry: v1::OfferedEntry| v1::OfferedEntry { mode, ..entry };
    let canary = bed.app().join("canary");
    fs::write(&canary, "alive").unwrap();
    for hostile in [
        vec![file("/tmp/x", "x")],
        vec![file("../canary", "x")],
        vec![file("../../canary", "x")],
        vec![file("a/../../../canary", "x"), directory("a")],
        vec![link("l", "../../canary")],
        vec![link("l", "/etc/passwd")],
        vec![link("l", ".."), file("l/x", "x")],
        vec![link("l", "d"), directory("d"), file("l/x", "x")],
        vec![with_mode(0o4755, file("su", "x"))],
        vec![with_mode(0o2755, directory("sg"))],
        vec![with_mode(0o02_0644, file("device", "x"))],
        vec![file("x", "x"), file("x", "y")],
        vec![file("x", "x"), file("x/y", "y")],
        vec![file("x\0y", "x")],
        vec![file("", "x")],
    ] {
        let what = format!("{hostile:?}");
        let entries = std::iter::once(top()).chain(hostile).collect();
        assert_eq!(code(raw(&bed, offer("bad", entries))), "OFFER_UNFIT", "{what}");
        assert_eq!(releases(&bed), ["r1", "r2", "r3"], "{what}");
    }
    // What is announced well and comes otherwise.
    for wrong in [
        vec![content("good", "evil")],
        vec![content("good", "good and more")],
        vec![content("other", "other")],
        vec![content("good", "")],
        vec![content("good", "go"), content("other", "od")],
        vec![content("good", "good"), content("good", "good")],
    ] {
        let what = format!("{wrong:?}");
        let messages = [offer("bad", vec![top(), file("x", "good")]), wrong].concat();
        assert_eq!(code(raw(&bed, messages)), "OFFER_UNFIT", "{what}");
        assert_eq!(releases(&bed), ["r1", "r2", "r3"], "{what}");
    }
    let mut lie = file("empty", "");
    if let Some(Kind::File(file)) = &mut lie.kind {
        file.content = Digest::of(b"something").as_bytes().to_vec();
    }
    assert_eq!(code(raw(&bed, offer("bad", vec![top(), lie]))), "OFFER_UNFIT");
    assert_eq!(releases(&bed), ["r1", "r2", "r3"]);
    assert_eq!(fs::read_to_string(&canary).unwrap(), "alive");
}

#[test]
fn a_push_that_is_out_of_order_is_refused() {
    let Some((bed, _agent)) = bed("a_push_that_is_out_of_order_is_refused") else { return };
    let all = offer("bad", vec![top(), file("x", "good")]);
    for wrong in [
        Vec::new(),
        all[1..].to_vec(),
        vec![all[0].clone(), content("good", "good")],
        all[..2].to_vec(),
        [all.clone(), all.clone()].concat(),
    ] {
        assert_eq!(code(raw(&bed, wrong.clone())), "InvalidArgument", "{wrong:?}");
    }
    // One that ends too early is kept, and is no release.
    assert_eq!(code(raw(&bed, all.clone())), "Internal");
    assert!(releases(&bed)[0].starts_with(".push-"));
    assert!(raw(&bed, [all, vec![content("good", "good")]].concat()).is_ok());
    assert_eq!(releases(&bed), ["bad", "r1", "r2", "r3"]);
}

#[test]
fn names_that_adoption_would_not_see_are_refused() {
    let lines = "releases = { directory = \"releases\", pattern = \"r*\" }";
    let Some((bed, _agent)) = bed_with("names_that_adoption_would_not_see_are_refused", lines) else { return };
    let source = dist(&bed, "one", 1, 0);
    assert_eq!(refusal(&push(&bed, &source, &["--version", "1.0"])), "OFFER_UNFIT");
    answer(&push(&bed, &source, &["--version", "1.0", "--name", "r-1.0"]));
}

#[test]
fn files_are_linked_when_the_configuration_says_so() {
    let lines = "releases = { directory = \"releases\", hardlinks = true }";
    let Some((bed, _agent)) = bed_with("files_are_linked_when_the_configuration_says_so", lines) else { return };
    let first = dist(&bed, "one", 3, 0);
    answer(&push(&bed, &first, &["--version", "1.0"]));
    settle(&bed, "1.0");
    fs::set_permissions(first.join("lib/file1"), PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(first.join("lib/twin"), fs::read(first.join("lib/file2")).unwrap()).unwrap();
    let told = answer(&push(&bed, &first, &["--version", "2.0"]));
    assert_eq!((&told["sharing"], counted(&told, "sent")), (&"hardlink".into(), 0), "{told}");
    let inode = |path: &str| fs::metadata(bed.app().join("releases").join(path)).unwrap().ino();
    assert_eq!(inode("1.0/lib/file0"), inode("2.0/lib/file0"));
    assert_eq!(inode("2.0/lib/twin"), inode("2.0/lib/file2"));
    assert_ne!(inode("1.0/lib/file1"), inode("2.0/lib/file1"), "another mode is another file");
    for name in ["1.0", "2.0"] {
        assert_eq!(answer(&bed.rbctl(&["verify", name, "-o", "json"]))["intact"], true, "{name}");
    }
}

#[test]
fn a_source_that_has_changed_is_not_shared() {
    let Some((bed, _agent)) = bed("a_source_that_has_changed_is_not_shared") else { return };
    let source = dist(&bed, "one", 3, 0);
    answer(&push(&bed, &source, &["--version", "1.0"]));
    // The size stays, and the index still says what was there.
    let path = bed.app().join("releases/1.0/lib/file1");
    let changed = fs::read_to_string(&path).unwrap().replace('1', "2");
    fs::write(&path, changed).unwrap();
    let told = answer(&push(&bed, &source, &["--version", "2.0"]));
    assert_eq!(counted(&told, "sent"), 1, "{told}");
    assert!(same(&source, &bed.app().join("releases/2.0")));
}

#[test]
fn a_pushed_release_runs_on_a_real_host() {
    if !real_hosts("a_pushed_release_runs_on_a_real_host") {
        return;
    }
    // The agent there is shut in by its unit, and is root with hardly any rights.
    let world = Installed::up(COMPONENT);
    for (version, mode) in [("2", "755"), ("3", "555")] {
        world.build(version, "");
        world.host().sh(&format!("chmod {mode} /srv/build")).expect("its mode is set");
        let told = world.json(&["push", "/srv/build", "--version", version])["hosts"][0].clone();
        assert_eq!((counted(&told, "sent"), counted(&told, "shared")), (1, 1), "{told}");
        world.host().sh("chmod 755 /srv/build").expect("its mode is set");
        let done = world.rbctl(&["deploy", version, "--watch", "1s", "--yes"]);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(world.current(), format!("releases/{version}"));
    }
    world.build("4", "");
    assert_eq!(refusal(&world.rbctl(&["push", "/srv/build", "--version", "3", "-o", "json"])), "NAME_TAKEN");
    let back = world.rbctl(&["rollback", "--yes", "--reason", "a test"]);
    assert_eq!(back.status.code(), Some(0), "{}", String::from_utf8_lossy(&back.stderr));
    assert_eq!(world.current(), "releases/2");
    let audited = |field: &str, text: &str| {
        let told = world.host().sh(&format!("journalctl {field} -o cat --no-pager")).unwrap_or_default();
        told.lines().filter(|line| line.contains(text)).count()
    };
    world.wait_for("the audit", || {
        audited("ROLLBACK_RECORD=release.pushed", "was pushed by local:uid=0") == 2
            && audited("ROLLBACK_REFUSAL=NAME_TAKEN", "was refused to local:uid=0") == 1
    });
}

#[test]
fn what_was_pushed_survives_the_power_and_is_shared_as_the_disk_can() {
    let name = "what_was_pushed_survives_the_power_and_is_shared_as_the_disk_can";
    let Some(program) = agent_program() else { return skipped(name, "needs `rb-agent`, which `cargo build` makes") };
    if let Err(reason) = images::available() {
        return skipped(name, &reason);
    }
    images::privately(move || {
        for (file_system, sharing) in [(FileSystem::Ext4, "copy"), (FileSystem::Xfs, "reflink")] {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let spec = ImageSpec { file_system, size_mib: 400, inodes: None };
            let image = Image::create(dir.path(), "disk", spec).unwrap();
            let bed = Bed::new(program.clone(), Places::Images(image, None));
            pushes_on_a_disk_without_power(&bed, sharing);
        }
    });
}

fn pushes_on_a_disk_without_power(bed: &Bed, sharing: &str) {
    let agent = bed.start();
    let (first, second) = (dist(bed, "one", 50, 0), dist(bed, "two", 50, 1));
    answer(&push(bed, &first, &["--version", "1.0"]));
    settle(bed, "1.0");
    let told = answer(&push(bed, &second, &["--version", "2.0"]));
    assert_eq!((told["sharing"].as_str(), counted(&told, "sent")), (Some(sharing), 2), "{told}");
    let agent = without_power(bed, agent);
    for (source, name) in [(&first, "1.0"), (&second, "2.0")] {
        assert!(same(source, &bed.app().join("releases").join(name)), "{name} on a disk with {sharing}");
        let told = answer(&bed.rbctl(&["verify", name, "-o", "json"]));
        assert_eq!((&told["intact"], &told["release"]["manifest"]["origin"]), (&true.into(), &"pushed".into()));
    }
    let source = thirds(bed);
    let speaking = Speaking::begin(bed, half("3.0"));
    let is_staged = || releases(bed).iter().any(|name| name.starts_with(".push-"));
    wait_until(LIMIT, "the begin of the staging", is_staged).unwrap();
    let _agent = without_power(bed, agent);
    drop(speaking.end());
    answer(&push(bed, &source, &["--version", "3.0"]));
    assert!(same(&source, &bed.app().join("releases/3.0")) && !is_staged());
}

/// Takes the power of the disk away, gives it back, and starts the next agent.
fn without_power(bed: &Bed, agent: Agent) -> Agent {
    bed.cut_power();
    drop(agent);
    bed.end_services();
    bed.remount();
    bed.start()
}
