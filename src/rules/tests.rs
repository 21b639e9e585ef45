//! Rules as tables, and what must hold of any text of metrics and any order of samples.

use proptest::prelude::*;

use super::Reading;
use super::counters::Counters;
use super::exposition::{Malformed, samples};
use super::histogram::{Bound, quantile};
use super::lines::{Matches, Patterns};
use super::metric::{Measure, Part, ScrapeError, answer};
use super::selector::Selector;
use super::usage::{Limits, Usage};
use super::window::Window;

const PAGE: &str = r#"# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{code="200",method="GET"} 90
http_requests_total{code="500", method="GET",} 8 1700000000000
http_requests_total{code="503",method="a\"b\\c\nd"} 2 # {trace="x"} 0.1

http_request_duration_seconds_bucket{le="0.1"} 90
http_request_duration_seconds_bucket{le="+Inf"} 100
up	1e0
temperature -3.5
nothing NaN
"#;

fn select(text: &str) -> Selector {
    text.parse().expect("a selector")
}

fn ratio(max: f64) -> Measure {
    Measure::Ratio { errors: select("http_requests_total{code=~\"5..\"}"), total: select("http_requests_total"), max }
}

#[test]
fn pages_are_read_as_prometheus_does() {
    let all: Vec<_> = samples(PAGE).collect::<Result<_, _>>().expect("it is a page");
    assert_eq!(all.len(), 8);
    assert_eq!((all[1].name, all[1].value, all[1].label("code")), ("http_requests_total", 8.0, "500"));
    assert_eq!(all[2].label("method"), "a\"b\\c\nd");
    assert_eq!(all[2].label("absent"), "");
    assert!(all[7].value.is_nan());
    for (line, bad) in [
        (1, "<html>"),
        (2, "up 1\nup"),
        (1, "up one"),
        (1, "1up 1"),
        (1, "up{a=\"b} 1"),
        (1, "up{a=b} 1"),
        (1, "up{a=\"b\" c=\"d\"} 1"),
        (1, "up 1 2 3"),
        (3, "up 1\n\nup{le=\"0.5\"} 1\u{0}"),
    ] {
        let found = samples(bad).find_map(Result::err);
        assert_eq!(found, Some(Malformed { line }), "{bad:?}");
    }
}

#[test]
fn selectors_select_as_promql_does() {
    for (selector, codes) in [
        ("http_requests_total", &["200", "500", "503"][..]),
        ("http_requests_total{}", &["200", "500", "503"]),
        ("http_requests_total{code=~\"5..\"}", &["500", "503"]),
        ("http_requests_total{code=~\"5\"}", &[]),
        ("http_requests_total{code!~\"5..\", method=\"GET\",}", &["200"]),
        ("http_requests_total{code!=\"200\"}", &["500", "503"]),
        ("http_requests_total{absent=\"\"}", &["200", "500", "503"]),
        ("http_requests", &[]),
    ] {
        let wanted = select(selector);
        let all = samples(PAGE).map(|sample| sample.expect("a sample"));
        let found: Vec<String> =
            all.filter(|sample| wanted.selects(sample, "")).map(|sample| sample.label("code").to_owned()).collect();
        assert_eq!(found, codes, "{selector}");
        assert_eq!(wanted.to_string(), selector);
    }
    for bad in ["", "5xx", "a b", "a{", "a{b}", "a{b=\"c\"", "a{b=\"c\"}x", "a{b=~\"(\"}", "a{b=~\"c)(d\"}", "a{b=c}"] {
        assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
    }
}

/// Judges two pages that were read a minute apart.
fn two(measure: &Measure, before: &str, after: &str) -> Reading {
    let mut counters = Counters::new(60_000);
    for (at, page) in [(0, before), (60_000, after)] {
        counters.look(at, measure.counts(page).expect("a page"));
    }
    measure.judge(&counters, 10)
}

#[test]
fn error_ratios_follow_the_table() {
    let page = |ok: u32, bad: u32| {
        format!("http_requests_total{{code=\"200\"}} {ok}\nhttp_requests_total{{code=\"500\"}} {bad}\n")
    };
    let beyond = |words: &str| Reading::Beyond(words.to_owned());
    let table = [
        (page(100, 0), page(200, 0), Reading::Within("0 % of 100 requests in 60 s failed".into())),
        (page(100, 5), page(199, 6), Reading::Within("1 % of 100 requests in 60 s failed".into())),
        (page(100, 5), page(198, 7), beyond("2 % of 100 requests in 60 s failed, 1 % is the limit")),
        // The service was restarted: it counts from zero, and the errors of before are no errors of now.
        (page(100, 50), page(20, 0), Reading::Within("0 % of 20 requests in 60 s failed".into())),
        (page(100, 0), page(0, 20), beyond("100 % of 20 requests in 60 s failed, 1 % is the limit")),
        (page(100, 0), page(105, 4), Reading::Unknown("9 requests in 60 s, 10 are needed to tell".into())),
        (page(100, 0), page(100, 0), Reading::Unknown("0 requests in 60 s, 10 are needed to tell".into())),
        // The first error is counted where it happens.
        (
            "http_requests_total{code=\"200\"} 100\n".to_owned(),
            page(150, 50),
            beyond("50 % of 100 requests in 60 s failed, 1 % is the limit"),
        ),
    ];
    for (before, after, reading) in table {
        assert_eq!(two(&ratio(0.01), &before, &after), reading, "{before} {after}");
    }
    let once = Counters::<Part>::new(60_000);
    assert!(matches!(ratio(0.01).judge(&once, 10), Reading::Unknown(_)));
    for (bad, error) in [
        ("up 1\n", ScrapeError::Absent("http_requests_total".into())),
        ("http_requests_total NaN\n", ScrapeError::Value("http_requests_total".into())),
        ("http_requests_total -1\n", ScrapeError::Value("http_requests_total".into())),
        ("oops\n", ScrapeError::Malformed(Malformed { line: 1 })),
    ] {
        assert_eq!(ratio(0.01).counts(bad), Err(error));
    }
    let flood: String = (0..30_000).map(|n| format!("http_requests_total{{id=\"{n}\"}} 1\n")).collect();
    assert_eq!(ratio(0.01).counts(&flood), Err(ScrapeError::TooMany));
}

#[test]
fn latencies_follow_the_table() {
    let measure = Measure::Quantile { histogram: select("t_seconds{path!=\"/healthz\"}"), quantile: 0.99, max_ms: 200 };
    let page = |fast: u32, all: u32| {
        format!(
            "t_seconds_bucket{{le=\"0.1\"}} {fast}\nt_seconds_bucket{{le=\"0.5\"}} {all}\nt_seconds_bucket{{le=\"+Inf\"}} {all}\n\
             t_seconds_bucket{{le=\"+Inf\",path=\"/healthz\"}} 7000\n"
        )
    };
    assert_eq!(
        two(&measure, &page(0, 0), &page(100, 100)),
        Reading::Within("P99 of 100 requests in 60 s is 99 ms".into())
    );
    let slow = "P99 of 100 requests in 60 s is 492 ms, 200 ms is the limit";
    assert_eq!(two(&measure, &page(500, 500), &page(550, 600)), Reading::Beyond(slow.into()));
    let cut = "t_seconds_bucket{le=\"0.1\"} ";
    let reading = two(&measure, &format!("{cut}0"), &format!("{cut}50"));
    assert_eq!(reading, Reading::Unknown("the histogram has no bucket `+Inf` beside others".into()));
}

#[test]
fn quantiles_are_those_of_promql() {
    let bounds = |texts: &[(&str, f64)]| -> Vec<(Bound, f64)> {
        texts.iter().map(|(bound, count)| (Bound::parse(bound).expect("a bound"), *count)).collect()
    };
    let usual = bounds(&[("0.1", 10.0), ("0.5", 20.0), ("1", 40.0), ("+Inf", 50.0)]);
    for (wanted, found) in [(0.1, 0.05), (0.2, 0.1), (0.3, 0.3), (0.6, 0.75), (0.8, 1.0), (0.99, 1.0)] {
        let quantile = quantile(wanted, &usual).expect("a quantile");
        assert!((quantile - found).abs() < 1e-9, "{wanted}: {quantile}");
    }
    assert_eq!(quantile(0.5, &bounds(&[("-1", 10.0), ("+Inf", 10.0)])), Some(-1.0));
    assert_eq!(quantile(0.5, &bounds(&[("1", 0.0), ("+Inf", 0.0)])), None);
    assert_eq!(quantile(0.5, &bounds(&[("1", 5.0)])), None);
    assert_eq!(quantile(0.5, &bounds(&[("+Inf", 5.0)])), None);
    assert_eq!(Bound::parse("NaN"), None);
}

#[test]
fn answers_of_a_server_follow_the_table() {
    let vector = |values: &str| {
        format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{values}]}}}}")
    };
    let unknown = |words: &str| Reading::Unknown(words.to_owned());
    for (body, reading) in [
        (vector("{\"metric\":{},\"value\":[1.5,\"0.005\"]}"), Reading::Within("the query gives 0.005".into())),
        (
            vector("{\"value\":[1,\"0\"]},{\"value\":[1,\"0.25\"]}"),
            Reading::Beyond("the query gives 0.25, 0.01 is the limit".into()),
        ),
        (vector("{\"value\":[1,\"+Inf\"]}"), Reading::Beyond("the query gives inf, 0.01 is the limit".into())),
        (vector("{\"value\":[1,\"NaN\"]}"), unknown("the query gives no value")),
        (vector(""), unknown("the query gives no value")),
        (
            "{\"status\":\"success\",\"data\":{\"resultType\":\"scalar\",\"result\":[1,\"0\"]}}".into(),
            Reading::Within("the query gives 0".into()),
        ),
        (
            "{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[]}}".into(),
            unknown("the query gives neither a vector nor a scalar"),
        ),
        ("{\"status\":\"error\",\"error\":\"parse error\"}".into(), unknown("the query failed: parse error")),
        ("<html>".into(), unknown("the answer is not JSON")),
        ("[]".into(), unknown("the query failed: it does not say why")),
    ] {
        assert_eq!(answer(body.as_bytes(), 0.01), reading, "{body}");
    }
}

#[test]
fn use_is_judged_by_memory_growth_and_cpu() {
    let mib = |count: u64| count << 20;
    let looks = |limits: Limits, used: &[(u64, u64, f64)]| {
        let mut usage = Usage::new(60_000);
        for (second, memory, cpu_ms) in used {
            usage.look(second * 1_000, mib(*memory), [("7".to_owned(), *cpu_ms)]);
        }
        usage.judge(&limits)
    };
    let memory = Limits { memory_max: Some(mib(100)), ..Limits::default() };
    assert_eq!(looks(memory, &[(0, 100, 0.0)]), Reading::Within("100.0 MiB of memory".into()));
    assert_eq!(looks(memory, &[(0, 101, 0.0)]), Reading::Beyond("101.0 MiB of memory, 100.0 MiB is the limit".into()));
    assert!(matches!(looks(memory, &[]), Reading::Unknown(_)));
    let growth = Limits { memory_growth_per_min: Some(mib(10)), ..Limits::default() };
    assert!(matches!(looks(growth, &[(0, 10, 0.0), (20, 100, 0.0)]), Reading::Unknown(_)), "too early to tell");
    let leak = Reading::Beyond("memory grows by 20.0 MiB a minute, 10.0 MiB is the limit".into());
    assert_eq!(looks(growth, &[(0, 10, 0.0), (15, 15, 0.0), (30, 20, 0.0)]), leak);
    assert_eq!(
        looks(growth, &[(0, 50, 0.0), (30, 20, 0.0)]),
        Reading::Within("memory grows by 0.0 MiB a minute".into())
    );
    let cpu = Limits { cpu_max: Some(50), ..Limits::default() };
    assert_eq!(looks(cpu, &[(0, 1, 500.0), (10, 1, 5_400.0)]), Reading::Within("49 % of a CPU".into()));
    assert_eq!(
        looks(cpu, &[(0, 1, 500.0), (10, 1, 5_600.0)]),
        Reading::Beyond("51 % of a CPU, 50 % is the limit".into())
    );
    let climb = Limits { cpu_growth_per_min: Some(20), ..Limits::default() };
    let (steady, faster) = (
        [(0, 1, 0.0), (20, 1, 4e3), (40, 1, 8e3), (60, 1, 12e3)],
        [(0, 1, 0.0), (20, 1, 4e3), (40, 1, 12e3), (60, 1, 24e3)],
    );
    assert_eq!(looks(climb, &steady), Reading::Within("the use of CPU grows by 0 % a minute".into()));
    assert_eq!(
        looks(climb, &faster),
        Reading::Beyond("the use of CPU grows by 30 % a minute, 20 % is the limit".into())
    );
    assert!(matches!(looks(climb, &steady[..2]), Reading::Unknown(_)));
    assert!(
        matches!(looks(Limits { memory_max: Some(mib(1)), ..cpu }, &[(0, 5, 0.0)]), Reading::Beyond(_)),
        "one is enough"
    );
}

#[test]
fn critical_lines_are_counted_within_their_time() {
    let mut one = Matches::new(60_000, 0);
    assert_eq!(one.judge(0), Reading::Within("no critical line".into()));
    one.note(1_000, "FATAL no disk".into());
    assert_eq!(one.judge(61_000), Reading::Beyond("it logged a critical line: FATAL no disk".into()));
    assert_eq!(one.judge(61_001), Reading::Within("no critical line".into()));
    let mut some = Matches::new(10_000, 2);
    for (second, beyond) in [(1, false), (2, false), (3, true), (13, false), (14, false), (15, true)] {
        some.note(second * 1_000, format!("line {second}"));
        let reading = some.judge(second * 1_000);
        assert_eq!(matches!(reading, Reading::Beyond(_)), beyond, "{second}: {reading:?}");
    }
    let patterns = Patterns::new(["FATAL", r"panicked at .*\.rs"]).expect("patterns");
    assert!(patterns.find("thread 'main' panicked at src/main.rs:1") && !patterns.find("fatal"));
    assert_eq!(Patterns::new(["("]).expect_err("no expression"), "error: unclosed group");
    assert!(Patterns::new([r"\w{5000}{5000}"]).is_err());
}

#[test]
fn windows_keep_what_they_need() {
    let mut window = Window::new(60_000);
    for second in 0..100_000_u64 {
        window.push(second * 10, second);
    }
    let (first, last, over_ms) = window.ends().expect("two samples");
    assert!((59_000..=60_000).contains(&over_ms), "{over_ms}");
    assert_eq!((*last, last - first), (99_999, over_ms / 10));
    // Two that lie far apart still tell what happened in between.
    window.push(10_000_000, 7);
    window.push(20_000_000, 8);
    assert_eq!(window.ends(), Some((&7, &8, 10_000_000)));
}

proptest! {
    #[test]
    fn no_text_of_metrics_does_harm(text in "[a-z_:]{0,8}[{ ]{0,2}[a-z=\",\\\\}]{0,20} ?[-+0-9.eNaInf#]{0,8}\n?[ -~\n]{0,80}") {
        for sample in samples(&text).flatten() {
            prop_assert!(!sample.name.is_empty() && text.contains(sample.name));
        }
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string(), text.as_str());
        }
        drop(answer(text.as_bytes(), 1.0));
    }

    #[test]
    fn a_sample_that_is_written_is_read(
        name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,9}", label in "[a-z_]{1,5}", value in "[ -~äß]{0,12}", number: f64,
    ) {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
        let line = format!("{name}{{{label}=\"{escaped}\"}} {number:e}");
        let read = samples(&line).next().expect("a line").expect("a sample");
        prop_assert_eq!((read.name, read.label(&label)), (name.as_str(), value.as_str()));
        prop_assert!(read.value == number || number.is_nan() && read.value.is_nan());
    }

    #[test]
    fn counters_never_shrink_and_count_every_step(steps in prop::collection::vec((1_u32..50, any::<bool>()), 2..60)) {
        let (mut counters, mut value, mut counted, mut now) = (Counters::new(u64::MAX), 0_u32, 0_u32, 0);
        for (at, (more, restarts)) in steps.into_iter().enumerate() {
            // A restart that is seen: it has counted less than before when it is looked at.
            let restarts = restarts && more < value;
            value = if restarts { more } else { value + more };
            if at > 0 { counted += more; }
            now += 1_000;
            counters.look(now, [(((), "a".to_owned()), f64::from(value))].into());
        }
        let growth = counters.growth().expect("two looks");
        prop_assert!((growth.by[&()] - f64::from(counted)).abs() < 1e-6);
    }

    #[test]
    fn a_quantile_lies_within_its_buckets(counts in prop::collection::vec(0_u32..100, 1..12), wanted in 0.01_f64..0.999) {
        let mut sum = 0;
        let mut buckets: Vec<(Bound, f64)> = counts.iter().enumerate().map(|(at, count)| {
            sum += count;
            (Bound::parse(&(at + 1).to_string()).expect("a bound"), f64::from(sum))
        }).collect();
        buckets.push((Bound::parse("+Inf").expect("a bound"), f64::from(sum)));
        let found = quantile(wanted, &buckets);
        prop_assert_eq!(found.is_none(), sum == 0);
        prop_assert!(found.is_none_or(|found| (0.0..=12.0).contains(&found)));
    }
}
