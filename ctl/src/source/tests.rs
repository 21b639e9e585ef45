//! Directories and archives as they come, good and hostile.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};

use rollback::model::offer::OfferedKind;
use tar::{Builder, EntryType, Header};

use super::*;

/// One entry of an archive, byte for byte as it is told.
struct Told<'a> {
    path: &'a [u8],
    kind: EntryType,
    mode: u32,
    target: &'a [u8],
    content: &'a [u8],
}

fn file<'a>(path: &'a str, content: &'a str) -> Told<'a> {
    Told { path: path.as_bytes(), kind: EntryType::Regular, mode: 0o644, target: b"", content: content.as_bytes() }
}

fn directory(path: &str) -> Told<'_> {
    Told { kind: EntryType::Directory, mode: 0o750, ..file(path, "") }
}

fn link<'a>(path: &'a str, target: &'a str) -> Told<'a> {
    Told { kind: EntryType::Symlink, target: target.as_bytes(), ..file(path, "") }
}

fn archive(entries: &[Told<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for told in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(told.kind);
        header.set_mode(told.mode);
        header.set_mtime(1_700_000_000);
        header.set_size(told.content.len() as u64);
        // By hand: the library refuses to write what is hostile.
        header.as_old_mut().name[..told.path.len()].copy_from_slice(told.path);
        header.as_old_mut().linkname[..told.target.len()].copy_from_slice(told.target);
        header.set_cksum();
        builder.append(&header, told.content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The three forms of an archive.
fn packed(plain: &[u8]) -> [Vec<u8>; 3] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(plain).unwrap();
    [plain.to_vec(), gzip.finish().unwrap(), zstd::encode_all(plain, 1).unwrap()]
}

fn read_bytes(bytes: &[u8], strip: usize) -> Result<Source, SourceError> {
    let mut held = tempfile::NamedTempFile::new().unwrap();
    held.write_all(bytes).unwrap();
    read(held.path(), strip)
}

fn paths(offer: &Offer) -> Vec<String> {
    offer.entries().iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
}

fn contents(source: &Source) -> Vec<String> {
    let read = |content| {
        let mut all = Vec::new();
        source.pieces(content, 3, |piece| {
            assert!(piece.len() <= 3);
            all.extend(piece);
            true
        })?;
        Ok::<_, SourceError>(String::from_utf8(all).unwrap())
    };
    source.offer.files().map(|(_, file)| read(&file.content).unwrap()).collect()
}

#[test]
fn a_directory_and_its_archives_are_the_same_offer() {
    let held = tempfile::tempdir().unwrap();
    let root = held.path().join("dist");
    fs::create_dir_all(root.join("bin")).unwrap();
    for (path, content, mode) in
        [("bin/app", "the program", 0o755), ("VERSION", "2.5.0\n", 0o644), ("empty", "", 0o600)]
    {
        fs::write(root.join(path), content).unwrap();
        fs::set_permissions(root.join(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    for path in ["", "bin"] {
        fs::set_permissions(root.join(path), PermissionsExt::from_mode(0o755)).unwrap();
    }
    symlink("bin/app", root.join("start")).unwrap();
    let from_directory = read(&root, 0).unwrap();
    assert_eq!(paths(&from_directory.offer), ["", "VERSION", "bin", "bin/app", "empty", "start"]);
    assert_eq!(contents(&from_directory), ["2.5.0\n", "the program", ""]);
    let mut builder = Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", &root).unwrap();
    for bytes in packed(&builder.into_inner().unwrap()) {
        let from_archive = read_bytes(&bytes, 0).unwrap();
        assert_eq!(from_archive.offer.tree(), from_directory.offer.tree());
        assert_eq!(contents(&from_archive), contents(&from_directory));
    }
}

#[test]
fn archives_are_stripped_and_their_gaps_are_filled() {
    let plain = archive(&[
        directory("web-2.5.0/"),
        file("web-2.5.0/a/b/app", "1"),
        Told { kind: EntryType::Link, target: b"web-2.5.0/a/b/app", ..file("web-2.5.0/again", "") },
        file("README", "left out"),
    ]);
    let source = read_bytes(&plain, 1).unwrap();
    assert_eq!(paths(&source.offer), ["", "a", "a/b", "a/b/app", "again"]);
    let modes: Vec<u32> = source.offer.entries().iter().map(|entry| entry.mode).collect();
    assert_eq!(modes, [0o750, 0o755, 0o755, 0o644, 0o644]);
    assert_eq!(contents(&source), ["1", "1"]);
    let whole = read_bytes(&plain, 0).unwrap();
    assert_eq!(paths(&whole.offer)[..3], ["", "README", "web-2.5.0"]);
}

#[test]
fn long_names_are_whole() {
    let long = "directory/".repeat(20) + &"n".repeat(200);
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let source = read_bytes(&builder.into_inner().unwrap(), 0).unwrap();
    assert_eq!(paths(&source.offer).last().map(String::as_str), Some(long.as_str()));
}

#[test]
fn hostile_archives_are_refused_in_every_form() {
    let path_forms: [&[u8]; 12] = [
        b"/etc/cron.d/x",
        b"../x",
        b"a/../../x",
        b"..",
        b"a//x",
        b"a/b/../x",
        b"//x",
        b"../../../../../../tmp/x",
        b"./../x",
        b"a/./../../x",
        b"f/under-a-file",
        b"out/through-a-link",
    ];
    let kinds = [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Continuous];
    let mut hostile = Vec::new();
    for path in path_forms {
        for kind in kinds {
            hostile.push(Told { path, kind, mode: 0o644, target: b"f", content: b"" });
        }
    }
    for target in ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "./../x", "", "//x"] {
        hostile.push(link("l", target));
    }
    for target in ["/etc/passwd", "../..", "../../x", "f/../x", ".././../x", ""] {
        hostile.push(link("a/l", target));
    }
    for mode in [0o4755, 0o2755, 0o6711, 0o1777, 0o7777] {
        hostile.push(Told { mode, ..file("su", "x") });
        hostile.push(Told { mode, ..directory("su") });
    }
    for kind in [EntryType::Block, EntryType::Char, EntryType::Fifo, EntryType::new(b'Z')] {
        hostile.push(Told { kind, ..file("special", "") });
    }
    for target in ["/etc/passwd", "../x", "a", "missing"] {
        hostile.push(Told { kind: EntryType::Link, target: target.as_bytes(), ..file("hard", "") });
    }
    hostile.push(file("f", "twice"));
    hostile.push(directory("f"));
    assert!(hostile.len() * 3 >= 200, "{}", hostile.len());
    for told in hostile {
        let what = format!("{:?} `{}` to {:?}", told.kind, printable(told.path), printable(told.target));
        let plain = archive(&[directory("a"), file("f", "good"), link("out", "a"), told]);
        for bytes in packed(&plain) {
            assert!(read_bytes(&bytes, 0).is_err(), "{what}");
        }
    }
}

#[test]
fn attributes_of_archives_and_directories_are_refused() {
    for (key, refused) in [
        ("SCHILY.xattr.security.capability", true),
        ("SCHILY.xattr.user.x", true),
        ("LIBARCHIVE.xattr.user.x", true),
        ("SCHILY.acl.access", true),
        ("SCHILY.xattr.security.selinux", false),
        ("comment", false),
    ] {
        let mut builder = Builder::new(Vec::new());
        builder.append_pax_extensions([(key, &b"value"[..])]).unwrap();
        let mut header = Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        builder.append_data(&mut header, "app", &b"x"[..]).unwrap();
        assert_eq!(read_bytes(&builder.into_inner().unwrap(), 0).is_err(), refused, "{key}");
    }
    let held = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(held.path().join("app"), "x").unwrap();
    assert!(read(held.path(), 0).is_ok());
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(held.path().join("app"), "user.origin", b"elsewhere", flags).is_ok() {
        let told = read(held.path(), 0).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(told, Err("`app` has the extended attribute `user.origin`, which no release can have".to_owned()));
    }
}

#[test]
fn bombs_end_early() {
    let zeros = vec![0_u8; 8 * 1024 * 1024];
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    let mut header = Header::new_gnu();
    header.set_size(1 << 40);
    header.set_mode(0o644);
    header.set_path("zeros").unwrap();
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    for _ in 0..12 {
        bomb.write_all(&zeros).unwrap();
    }
    assert!(matches!(read_bytes(&bomb.finish().unwrap(), 0), Err(SourceError::Bomb(_))));
}

#[test]
fn truncated_and_garbled_archives_are_errors() {
    let plain = archive(&[file("a", &"x".repeat(2_000)), file("b", "y")]);
    for bytes in packed(&plain) {
        for cut in [1, 5, bytes.len() / 3, bytes.len() / 2] {
            // What is left may be an archive of less; it must only never be taken for the whole, nor panic.
            if let Ok(source) = read_bytes(&bytes[..cut], 0) {
                assert!(source.offer.files().count() < 2);
            }
        }
        for place in (0..bytes.len()).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[place] ^= 0x55;
            drop(read_bytes(&flipped, 0));
        }
    }
    assert!(read_bytes(b"neither", 0).is_err());
}

#[test]
fn special_files_of_a_directory_are_refused() {
    let held = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(held.path().join("socket")).unwrap();
    assert!(matches!(read(held.path(), 0), Err(SourceError::Entry { .. })));
    let missing: PathBuf = Path::new("/nowhere/at/all").to_owned();
    assert!(matches!(read(&missing, 0), Err(SourceError::Io { .. })));
}

#[test]
fn a_directory_is_read_without_following_links() {
    let held = tempfile::tempdir().unwrap();
    fs::create_dir(held.path().join("d")).unwrap();
    symlink("..", held.path().join("d/up")).unwrap();
    let source = read(held.path(), 0).unwrap();
    let link = source.offer.entries().iter().find(|entry| entry.path == b"d/up").unwrap();
    assert_eq!(link.kind, OfferedKind::Link(b"..".to_vec()));
    symlink("../..", held.path().join("d/out")).unwrap();
    assert!(read(held.path(), 0).is_err());
}
