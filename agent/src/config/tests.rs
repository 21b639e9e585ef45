//! Bad inputs and their exact words, the shipped examples, drop-ins, and what the host must have.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use rollback::model::health::Weight;

use super::*;

const GOOD: &str = "name = \"web\"\nenvironment = \"prod\"\nroot = \"/srv/web\"\nunits = [\"web.service\"]\n";

/// Gives the problems of a component that says `more` after the four lines it must have.
fn component_problems(more: &str) -> String {
    match parse_component(&format!("{GOOD}{more}"), Path::new("web.toml")) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn every_bad_component_has_its_line_and_its_words() {
    let table = [
        ("retian = 3", "web.toml:5: unknown key `retian` (did you mean `retain`?)"),
        ("retain = 0", "web.toml:5: `retain`: 0 is not between 1 and 1000"),
        ("retain = 3.5", "web.toml:5: `retain`: an integer is expected, found a float"),
        ("current = \"../x\"", "web.toml:5: `current`: \"../x\" is not the name of one directory entry"),
        ("releases = \"../x\"", "web.toml:5: `releases`: \"../x\" must be a path below the root, without `..`"),
        ("releases = \"current/x\"", "web.toml:5: `releases`: the releases cannot be behind the link \"current\""),
        (
            "releases = { pattern = \"a/*\" }",
            "web.toml:5: `releases.pattern`: \"a/*\" is not a release's name with `*` for any text",
        ),
        ("backend = \"docker\"", "web.toml:5: `backend`: \"docker\" is not a backend (\"systemd\" or \"process\")"),
        (
            "backend = \"process\"",
            "web.toml:5: `backend`: the process backend has no command for web.service \
             (`[commands]` with `\"web.service\" = [\"bin/program\", \"--flag\"]`)",
        ),
        (
            "[commands]\n\"web.service\" = [\"bin/web\"]",
            "web.toml:5: `commands`: systemd takes the command from the unit's own file \
             (remove `[commands]`, or say `backend = \"process\"`)",
        ),
        (
            "backend = \"process\"\n[commands]\n\"web.service\" = []\n\"x.service\" = [\"x\"]",
            "web.toml:7: `commands.web.service`: there is no program\n\
             web.toml:8: `commands.x.service`: it is none of the units (add it to `units`, or remove the command)",
        ),
        (
            "[configuration]\nlink = \"current\"",
            "web.toml:5: `configuration.files` is missing \
             (at least one `[[configuration.files]]` with `name` and `from`)\n\
             web.toml:5: `configuration`: the link \"current\" is `current` already",
        ),
        (
            "[timeouts]\nstop = 20",
            "web.toml:6: `timeouts.stop`: a duration such as \"20s\" is expected, found an integer",
        ),
        (
            "[timeouts]\nstop = \"soon\"",
            "web.toml:6: `timeouts.stop`: \"soon\" is not a duration (write \"500ms\", \"20s\" or \"1m 30s\")",
        ),
        ("[timeouts]\nstop = \"2h\"", "web.toml:6: `timeouts.stop`: \"2h\" is not between 100ms and 1h"),
        ("[policy]\nfallbacks = -1", "web.toml:6: `policy.fallbacks`: -1 is not between 0 and 10"),
        (
            "[policy]\nfull_read = \"no\"",
            "web.toml:6: `policy.full_read`: `true` or `false` is expected, found a string",
        ),
        ("name = \"x\"", "web.toml:5: not TOML: duplicate key"),
    ];
    for (more, words) in table {
        assert_eq!(component_problems(more), words, "{more}");
    }
}

#[test]
fn every_bad_probe_has_its_line_and_its_words() {
    let table = [
        (
            "kind = \"http\"",
            "web.toml:5: `probes.name` is missing (a name of its own: `name = \"health\"`)\n\
             web.toml:5: `probes.url` is missing (what is asked: `url = \"http://127.0.0.1:8080/health\"`)",
        ),
        (
            "name = \"a\"\nkind = \"icmp\"",
            "web.toml:7: `probes.kind`: \"icmp\" is not a kind of probe \
             (\"unit\", \"http\", \"tcp\", \"exec\", \"log\", \"metric\" or \"resource\")",
        ),
        (
            "name = \"a\"\nkind = \"http\"\nurl = \"ftp://x/\"\nstatuses = [200,\n 99]",
            "web.toml:8: `probes.url`: the scheme \"ftp\" is neither http nor https\n\
             web.toml:10: `statuses`: an integer between 100 and 599 is expected",
        ),
        (
            "name = \"a\"\nkind = \"http\"\nurl = \"http://u:geheim@x/\"",
            "web.toml:8: `probes.url`: a user or a password would appear in logs and in the history",
        ),
        (
            "name = \"a\"\nkind = \"tcp\"\naddress = \"::1:80\"\nbody = \"x\"",
            "web.toml:8: `probes.address`: \"::1:80\" is not HOST:PORT (IPv6 stands in brackets: `[::1]:5432`)\n\
             web.toml:9: `probes.body`: only a probe of the kind \"http\" has it",
        ),
        (
            "name = \"a\"\nkind = \"exec\"\ncommand = [\"check\"]",
            "web.toml:8: `probes.command`: the program \"check\" is not an absolute path \
             (there is no shell and no search path: write `/usr/bin/...`)",
        ),
        (
            "name = \"a\"\nkind = \"unit\"\ntimeout = \"1m\"",
            "web.toml:8: `probes.timeout`: verification ends after 15s already (raise `verify` in `[timeouts]`)",
        ),
        (
            "name = \"a\"\nkind = \"unit\"\n[[smoke]]\nname = \"a\"\nkind = \"unit\"\nweight = \"advisory\"",
            "web.toml:9: `smoke.name`: \"a\" stands twice\n\
             web.toml:11: `smoke.weight`: a smoke check is always required",
        ),
    ];
    for (more, words) in table {
        assert_eq!(component_problems(&format!("[[probes]]\n{more}")), words, "{more}");
    }
}

#[test]
fn every_bad_metric_has_its_line_and_its_words() {
    let metric = "kind = \"metric\"\nurl = \"http://x/\"\nfor = \"1m\"\n";
    let table = [
        (
            "kind = \"metric\"\nurl = \"http://x/\"",
            "web.toml:5: `probes.errors` is missing \
             (or `histogram`, or `promql`: `errors = 'http_requests_total{code=~\"5..\"}'`)"
                .to_owned(),
        ),
        (
            &format!("{metric}errors = \"n{{code=5}}\"\ntotal = \"n\"\nmax_ratio = 2\nmax = 1"),
            "web.toml:10: `probes.errors`: \"n{code=5}\" is not `name` or `name{label=\"value\"}`\n\
             web.toml:12: `probes.max_ratio`: 2 is not between 0 and 1\n\
             web.toml:13: `probes.max`: it belongs to `promql`"
                .to_owned(),
        ),
        (
            &format!("{metric}errors = \"n\"\ntotal = \"n\"\nhistogram = \"t\""),
            "web.toml:12: `probes.histogram`: a probe measures one thing, and `errors` stands here as well".to_owned(),
        ),
        (
            &format!("{metric}histogram = \"t_bucket\"\nquantile = 99\nwindow = \"5s\""),
            "web.toml:10: `probes.histogram`: the name stands without what its series have behind it (write `t`)\n\
             web.toml:11: `probes.quantile`: 99 is not between 0.001 and 0.9999\n\
             web.toml:12: `probes.window`: two looks that lie 5s apart need twice that time \
             (raise `window`, or lower `interval`)"
                .to_owned(),
        ),
        (
            "kind = \"metric\"\nurl = \"http://x/\"\nhistogram = \"t\"",
            "web.toml:5: `probes.for`: it must fail for 10m, and a watch ends after 5m already \
             (raise `watch` in `[policy]`, or lower `for`)"
                .to_owned(),
        ),
        (
            &format!("{metric}promql = \"up\"\nmax = \"1\""),
            "web.toml:5: `probes.server` is missing (the Prometheus server: `server = \"http://prometheus:9090\"`)\n\
             web.toml:8: `probes.url`: a query has no use for it\n\
             web.toml:11: `probes.max`: a number is expected, found a string"
                .to_owned(),
        ),
    ];
    for (more, words) in table {
        assert_eq!(component_problems(&format!("[[probes]]\nname = \"a\"\n{more}")), words, "{more}");
    }
}

#[test]
fn every_bad_rule_has_its_line_and_its_words() {
    let table = [
        ("kind = \"log\"\npatterns = []", "web.toml:8: `probes.patterns`: there is no pattern".to_owned()),
        (
            "kind = \"log\"\npatterns = [\"(\", \"\"]\nfor = \"1m\"",
            "web.toml:8: `probes.patterns`: \"(\": error: unclosed group\n\
             web.toml:8: `probes.patterns`: every line matches the empty pattern\n\
             web.toml:9: `probes.for`: only a probe of the kind \"unit\" or \"http\" or \"tcp\" or \"exec\" or \"metric\" \
             or \"resource\" has it"
                .to_owned(),
        ),
        (
            "kind = \"resource\"",
            "web.toml:5: `probes.max_memory` is missing \
             (or `max_memory_growth`, `max_cpu` or `max_cpu_growth`: `max_memory = \"512MiB\"`)"
                .to_owned(),
        ),
        (
            "kind = \"resource\"\nmax_memory = \"512MB\"\nmax_memory_growth = 5\nmax_cpu = 0",
            "web.toml:8: `probes.max_memory`: \"512MB\" is not a size (write \"64KiB\", \"512MiB\" or \"2GiB\")\n\
             web.toml:9: `probes.max_memory_growth`: a size such as \"512MiB\" is expected, found an integer\n\
             web.toml:10: `probes.max_cpu`: 0 is not between 1 and 100000"
                .to_owned(),
        ),
        (
            "kind = \"http\"\nurl = \"http://x/\"\njson_equals = 1.5",
            "web.toml:9: `probes.json_equals`: `json_pointer` must say what is compared (`json_pointer = \"/status\"`)\n\
             web.toml:9: `probes.json_equals`: a string, an integer or a boolean is expected"
                .to_owned(),
        ),
    ];
    for (more, words) in table {
        assert_eq!(component_problems(&format!("[[probes]]\nname = \"a\"\n{more}")), words, "{more}");
    }
    assert_eq!(
        component_problems("[[probes]]\nname = \"a\"\nkind = \"http\"\nurl = \"http://x/\"\nmax_latency = \"3s\""),
        "web.toml:9: `probes.max_latency`: a try ends after 2s already (raise `timeout`, or lower `max_latency`)"
    );
    let process = "backend = \"process\"\ncommands = { \"web.service\" = [\"bin/web\"] }\n\
        [[probes]]\nname = \"a\"\nkind = \"log\"\npatterns = [\"FATAL\"]";
    assert_eq!(
        component_problems(process),
        "web.toml:9: `probes.kind`: the process backend keeps no journal that a probe of the kind \"log\" could read"
    );
}

#[test]
fn all_missing_keys_are_named_at_once() {
    let errors = parse_component("units = []", Path::new("web.toml")).expect_err("nothing is there");
    assert_eq!(
        errors.to_string(),
        "web.toml:1: `environment` is missing (its label: `environment = \"prod\"`)\n\
         web.toml:1: `name` is missing (what people call it: `name = \"web\"`)\n\
         web.toml:1: `root` is missing (the directory that has `current` and the releases: `root = \"/srv/web\"`)\n\
         web.toml:1: `units`: there is no unit"
    );
}

#[test]
fn hostile_names_are_refused_wherever_a_name_is_read() {
    for name in ["", "-x", ".hidden", "..", "a/b", "a b", "*", "a\\nb", "a\\u001b[0m", "a\\u202eb", "a\\u0000"] {
        for text in [
            GOOD.replace("\"web\"", &format!("\"{name}\"")),
            GOOD.replace("\"prod\"", &format!("\"{name}\"")),
            GOOD.replace("web.service", name),
            format!("{GOOD}[[probes]]\nname = \"{name}\"\nkind = \"unit\""),
        ] {
            let errors = parse_component(&text, Path::new("web.toml")).expect_err(&text);
            assert_eq!(errors.to_string().lines().count(), errors.problems().len(), "one line each: {text}");
        }
        for root in [format!("/srv/{name}/../x"), "srv".to_owned(), "/".to_owned()] {
            assert!(parse_component(&GOOD.replace("/srv/web", &root), Path::new("web.toml")).is_err(), "{root}");
        }
    }
    assert!(parse_component(&GOOD.replace("web.service", "reboot.target"), Path::new("web.toml")).is_err());
}

#[test]
fn contradictions_of_the_agent_are_problems() {
    let table = [
        (
            "listen = \"0.0.0.0:7443\"",
            "agent.toml:1: `listen`: operators are served over TLS alone, and `[tls]` is missing",
        ),
        ("[tls]\ndomain = \"example.org\"", "agent.toml:1: `tls`: keys have no use without `listen`"),
        (
            "listen = \"web1\"\n[tls]",
            "agent.toml:1: `listen`: invalid socket address syntax\nagent.toml:2: `tls.domain` is missing",
        ),
        ("\n[policy]\nlease = \"1s\"", "agent.toml:3: `policy.lease`: \"1s\" is not between 1m and 24h"),
    ];
    for (text, words) in table {
        let errors = parse_agent(text, Path::new("agent.toml")).expect_err(text).to_string();
        let bare: Vec<&str> = errors.lines().map(|line| line.split(" (").next().unwrap_or(line)).collect();
        assert_eq!(bare.join("\n"), words);
    }
}

#[test]
fn the_shipped_examples_are_valid_and_print_as_what_they_say() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/examples");
    let read = |name: &str| std::fs::read_to_string(examples.join(name)).expect("the example is shipped");
    let agent = parse_agent(&read("agent.toml"), Path::new("agent.toml")).expect("valid");
    assert_eq!(agent.tls.map(|tls| tls.key), Some(PathBuf::from("/etc/rollback/pki/agent.key")));
    for name in ["components.d/web.toml", "components.d/backups.toml", "components.d/rules.toml"] {
        let component = parse_component(&read(name), Path::new(name)).expect(name);
        let table = file::parse(&read(name), Path::new(name), &Problems::default()).expect("it is TOML");
        let printed = print::component(&component, &merge::places(&table), &KeyPlaces::new());
        assert_eq!(parse_component(&printed, Path::new(name)), Ok(component), "{printed}");
    }
}

#[test]
fn a_smoke_check_is_a_required_probe_that_is_tried_once() {
    let text = format!("{GOOD}[[smoke]]\nname = \"s\"\nkind = \"unit\"\n[[probes]]\nname = \"p\"\nkind = \"unit\"");
    let component = parse_component(&text, Path::new("web.toml")).expect("valid");
    let order: Vec<_> = component.probes.iter().map(|p| (p.name.as_str(), p.weight, p.failures)).collect();
    assert_eq!(order, [("p", Weight::Required, 3), ("s", Weight::Required, 1)]);
}

/// A host with a component `web` whose files others cannot change, whatever the umask of the test is.
struct Host {
    held: tempfile::TempDir,
    paths: Paths,
}

impl Host {
    fn new() -> Self {
        let held = tempfile::tempdir().expect("a temporary directory");
        let [configuration, state, runtime] = ["etc", "state", "run"].map(|name| held.path().join(name));
        let host = Self { held, paths: Paths { configuration, state, runtime } };
        host.directory("etc/components.d");
        host.directory("srv/web/releases");
        host.write("etc/components.d/web.toml", &host.component("web", "web.service"));
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.held.path().join(name)
    }

    fn component(&self, name: &str, unit: &str) -> String {
        let root = self.path("srv/web");
        format!("name = \"{name}\"\nenvironment = \"prod\"\nroot = {root:?}\nunits = [\"{unit}\"]\n")
    }

    fn directory(&self, name: &str) {
        std::fs::create_dir_all(self.path(name)).expect("made");
        let mut at = self.path(name);
        while at != self.held.path() {
            self.mode(&at, 0o755);
            at.pop();
        }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
        self.mode(&self.path(name), 0o644);
    }

    fn mode(&self, path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("the test owns it");
    }

    /// Gives the problems, with the temporary directory left out.
    fn problems(&self) -> String {
        let errors = load(&self.paths, "web1").map_or_else(|errors| errors.to_string(), |_| String::new());
        errors.replace(&format!("{}/", self.held.path().display()), "")
    }
}

#[test]
fn a_host_without_agent_toml_serves_the_local_socket() {
    let host = Host::new();
    let settings = load(&host.paths, "web1").expect("valid");
    assert_eq!((settings.host.as_str(), settings.listen, settings.tls), ("web1", None, None));
    assert_eq!(settings.components.len(), 1);
    let errors = load(&host.paths, "-bad").expect_err("the name does not serve");
    assert!(errors.to_string().ends_with("(give the host a name: `host = \"web1\"`)"), "{errors}");
}

#[test]
fn later_drop_ins_win_key_by_key_and_the_print_says_where_from() {
    let host = Host::new();
    host.directory("etc/components.d/web.toml.d");
    host.directory("etc/agent.d");
    host.write("etc/components.d/web.toml.d/20.toml", "[timeouts]\nstop = \"3s\"\n");
    host.write("etc/components.d/web.toml.d/10.toml", "retain = 9\n[timeouts]\nstop = \"4s\"\nstart = \"5s\"\n");
    host.write("etc/components.d/web.toml.d/.hidden.toml", "nonsense");
    host.write("etc/components.d/web.toml.d/30.toml.bak", "nonsense");
    host.write("etc/agent.d/site.toml", "[policy]\nfallbacks = 2\nlease = \"20m\"\n");
    let (settings, origins) = load_with_origins(&host.paths, "web1").expect("valid");
    let component = settings.components.values().next().expect("one component");
    let timeouts = component.timeouts;
    assert_eq!(
        (component.policy.retention.good_max, timeouts.stop_ms, timeouts.start_ms, timeouts.verify_ms),
        (9, 3_000, 5_000, 15_000)
    );
    assert_eq!((component.policy.fallbacks_max, component.policy.lease_secs), (2, 1_200));
    let printed = print_merged(&settings, &origins);
    let printed = printed.replace(&format!("{}/", host.held.path().display()), "");
    for line in [
        "host = \"web1\"  # default",
        "# etc/components.d/web.toml",
        "retain = 9  # etc/components.d/web.toml.d/10.toml:1",
        "stop = \"3s\"  # etc/components.d/web.toml.d/20.toml:2",
        "start = \"5s\"  # etc/components.d/web.toml.d/10.toml:4",
        "verify = \"15s\"  # default",
        "lease = \"20m\"  # etc/agent.d/site.toml:3",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
    }
}

#[test]
fn a_problem_of_a_drop_in_is_placed_in_the_drop_in() {
    let host = Host::new();
    host.directory("etc/components.d/web.toml.d");
    host.directory("etc/components.d/gone.toml.d");
    host.write("etc/components.d/web.toml.d/10.toml", "\nretain = 0\n");
    assert_eq!(
        host.problems(),
        "etc/components.d/gone.toml.d: drop-ins for a component that has no file \
         (remove the directory, or name it after a file: `NAME.toml.d`)\n\
         etc/components.d/web.toml.d/10.toml:2: `retain`: 0 is not between 1 and 1000"
    );
}

#[test]
fn what_the_host_lacks_is_named_with_the_key_that_asks_for_it() {
    let host = Host::new();
    let more = "[configuration]\nlink = \"config\"\n[[configuration.files]]\nname = \"a\"\nfrom = \"/none/a\"\n\
                [[probes]]\nname = \"e\"\nkind = \"exec\"\ncommand = [\"/none/check\"]\n";
    host.write("etc/components.d/web.toml", &(host.component("web", "web.service") + more));
    std::fs::remove_dir(host.path("srv/web/releases")).expect("removed");
    assert_eq!(
        host.problems(),
        "etc/components.d/web.toml:3: `releases`: srv/web/releases: it does not exist\n\
         etc/components.d/web.toml:9: `configuration.files[0].from`: /none/a: there is no such file\n\
         etc/components.d/web.toml:13: `probes[0].command`: /none: it does not exist"
    );
    host.write("etc/components.d/web.toml", &host.component("web", "web.service"));
    host.mode(&host.path("srv/web"), 0o777);
    assert_eq!(
        host.problems().split(" (").next(),
        Some("etc/components.d/web.toml:3: `root`: srv/web: others can change it: its mode is 0777")
    );
    std::fs::remove_dir(host.path("srv/web")).expect("removed");
    assert_eq!(host.problems(), "etc/components.d/web.toml:3: `root`: srv/web: it does not exist");
}

#[test]
fn a_check_that_a_release_brings_is_refused() {
    let host = Host::new();
    host.write("srv/web/check", "#!/bin/sh\n");
    host.mode(&host.path("srv/web/check"), 0o755);
    symlink(host.path("srv/web/check"), host.path("check")).expect("linked");
    for program in ["srv/web/check", "check"] {
        let probe = format!("[[probes]]\nname = \"e\"\nkind = \"exec\"\ncommand = [{:?}]\n", host.path(program));
        host.write("etc/components.d/web.toml", &(host.component("web", "web.service") + &probe));
        assert!(host.problems().contains("what a release brings cannot judge it"), "{}", host.problems());
    }
}

#[test]
fn two_components_cannot_have_the_same_name_link_or_unit() {
    let host = Host::new();
    host.write("etc/components.d/x.toml", &host.component("web", "web.service"));
    let link = "etc/components.d/x.toml:3: the link srv/web/current belongs to another component";
    assert_eq!(
        host.problems(),
        format!(
            "etc/components.d/x.toml:1: `name`: web of prod is declared twice (see etc/components.d/web.toml:1)\n\
             {link} (see etc/components.d/web.toml:3)\n\
             etc/components.d/x.toml:4: `units`: web.service belongs to another component \
             (see etc/components.d/web.toml:4)"
        )
    );
}

#[test]
fn files_that_others_can_change_or_that_are_no_files_are_not_taken() {
    let host = Host::new();
    let file = host.path("etc/components.d/web.toml");
    host.mode(&file, 0o664);
    assert!(host.problems().starts_with("etc/components.d/web.toml: others can change it: its mode is 0664"));
    std::fs::remove_file(&file).expect("removed");
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RWXU).expect("made");
    assert_eq!(host.problems(), "etc/components.d/web.toml: cannot read: it is not a regular file");
    std::fs::remove_file(&file).expect("removed");
    let large = usize::try_from(FILE_BYTES_MAX).expect("it fits") + 1;
    host.write("etc/components.d/web.toml", &"#".repeat(large));
    assert_eq!(host.problems(), "etc/components.d/web.toml: cannot read: it has more than 1048576 bytes");
    host.mode(&host.path("etc/components.d"), 0o777);
    assert!(host.problems().starts_with("etc/components.d: others can change it: its mode is 0777"));
}

#[test]
fn a_key_that_others_can_read_is_refused_and_a_revocation_list_is_found() {
    let host = Host::new();
    host.directory("etc/pki");
    host.write("etc/agent.toml", "listen = \"127.0.0.1:7443\"\n[tls]\ndomain = \"example.org\"\n");
    for name in ["ca.crt", "agent.crt", "agent.key"] {
        host.write(&format!("etc/pki/{name}"), "");
    }
    let words = "etc/agent.toml:2: `tls.key`: etc/pki/agent.key: others can read or change it: its mode is 0644 \
                 (run `chmod 0600 etc/pki/agent.key`)";
    assert_eq!(host.problems(), words);
    host.mode(&host.path("etc/pki/agent.key"), 0o600);
    let revocations = || load(&host.paths, "web1").expect("valid").tls.expect("it listens").revocations;
    assert_eq!(revocations(), None);
    host.write("etc/pki/crl.pem", "");
    assert_eq!(revocations(), Some(host.path("etc/pki/crl.pem")));
}

#[test]
fn a_large_file_of_nonsense_is_read_in_good_time() {
    let text: String = (0..20_000).map(|at| format!("key{at} = {at}\n")).collect();
    let started = std::time::Instant::now();
    let errors = parse_component(&text, Path::new("web.toml")).expect_err("no key is known");
    assert!(errors.problems().len() > 20_000);
    assert!(started.elapsed() < Duration::from_secs(20), "it is linear in the size");
}
