//! What a report says of cells that stand as they may, to people and to machines.

mod support;

use support::{family, kept};
use vmm_core::matrix::{Kind, Matrix, Parts, Plan};
use vmm_core::report::*;

fn plan() -> Plan {
    let text = r#"format = 1
[[set]]
scenarios = ["console-locked", "idle-plain"]
subjects = ["payload"]
protocols = ["irq-only", "nmi-only", "v1-proposal", "irq-then-nmi"]
"#;
    let matrix = Matrix::parse("m.toml", text, &["console-locked", "idle-plain"]).unwrap();
    let parts = Parts {
        family: &|name| Ok(family(name)),
        fits: &|_: Kind, _| Ok(()),
    };
    matrix.plan(&parts, false).unwrap()
}

fn judged(verdicts: &[(&str, &str)], expected: &[&str]) -> Judged {
    let said = |(rule, verdict): &(&str, &str)| RuleSaid {
        rule: (*rule).to_owned(),
        verdict: (*verdict).to_owned(),
        cpu: (*verdict == "broken").then_some(1),
        at_us: (*verdict == "broken").then_some(300),
        event: (*verdict == "broken").then_some(10),
        text: (*verdict != "upheld").then(|| format!("# \"{rule}\" <it>\nis {verdict}")),
    };
    Judged {
        protocol: "nmi-only".to_owned(),
        schedule: None,
        directed: true,
        expected: expected.iter().map(|rule| (*rule).to_owned()).collect(),
        untested: Vec::new(),
        rules: verdicts.iter().map(said).collect(),
    }
}

fn run(run: u64, came: Came) -> Run {
    Run {
        run,
        seed: run,
        seconds: 0.25,
        repeat: format!("vmm run console-locked --seed {run}"),
        evidence: None,
        came,
    }
}

/// A cell that stands in each way.
fn report(strict: bool) -> Report {
    let plan = plan();
    let broken = [("spared", "broken"), ("bounded", "upheld")];
    let good = [("spared", "upheld"), ("bounded", "upheld")];
    let came =
        |verdicts: &[(&str, &str)], expected: &[&str]| Came::Judged(judged(verdicts, expected));
    let open = [("spared", "inconclusive"), ("bounded", "upheld")];
    let runs = [
        vec![
            run(1, came(&broken, &["spared"])),
            run(2, came(&broken, &["spared"])),
        ],
        vec![run(1, came(&broken, &[])), run(2, came(&broken, &[]))],
        vec![run(1, came(&good, &[])), run(2, came(&broken, &[]))],
        vec![run(1, came(&open, &[])), run(2, came(&open, &[]))],
        vec![run(1, Came::CannotRun("no SDEI # here".to_owned()))],
        vec![run(
            1,
            Came::Failed("the guest has no init\nat all".to_owned()),
        )],
        Vec::new(),
        vec![
            run(1, came(&good, &["spared"])),
            run(2, came(&good, &["spared"])),
        ],
    ];
    let cells = plan.cells.iter().zip(runs);
    let mut cells: Vec<CellReport> = cells
        .map(|(cell, runs)| CellReport::new(cell, runs, 2, strict))
        .collect();
    cells[2].parted = Some(Parted {
        runs: [1, 2],
        event: 7,
        first: vec!["6: CPU 1 Enters".to_owned(), "7: CPU 1 Leaves".to_owned()],
        second: vec!["6: CPU 1 Enters".to_owned(), "7: CPU 0 Returns".to_owned()],
    });
    let about = About {
        matrix: "m.toml".to_owned(),
        strict,
        shard: None,
        repeat: 2,
    };
    Report::new(about, &plan, cells)
}

#[test]
fn a_cell_stands_as_its_runs_went() {
    use Standing::*;
    let standings = |strict| -> Vec<Standing> {
        report(strict)
            .cells
            .iter()
            .map(|cell| cell.standing)
            .collect()
    };
    assert_eq!(
        standings(false),
        [
            AsExpected,
            Surprise,
            Flaky,
            Inconclusive,
            CannotRun,
            Failed,
            NotRun,
            Surprise
        ]
    );
    assert_eq!(
        standings(true),
        [
            Surprise,
            Surprise,
            Flaky,
            Inconclusive,
            CannotRun,
            Failed,
            NotRun,
            AsExpected
        ]
    );
}

#[test]
fn runs_that_nothing_directs_may_differ() {
    let free = |verdicts: &[(&str, &str)]| {
        let expected: Vec<&str> = verdicts
            .iter()
            .filter(|(_, verdict)| *verdict == "broken")
            .map(|(rule, _)| *rule)
            .collect();
        Came::Judged(Judged {
            directed: false,
            ..judged(verdicts, &expected)
        })
    };
    let runs = [
        run(1, free(&[("spared", "broken")])),
        run(2, free(&[("spared", "upheld")])),
    ];
    assert_eq!(standing(&runs, 2, false), Standing::AsExpected);
}

#[test]
fn bisect_is_told_good_bad_or_nothing() {
    assert_eq!(report(true).bisect(), 1);
    let only = |at: usize| {
        let mut report = report(true);
        report.cells = vec![report.cells[at].clone()];
        report.counts = [(report.cells[0].standing, 1)].into();
        report.bisect()
    };
    assert_eq!([3, 4, 5, 6, 7].map(only), [125, 125, 125, 125, 0]);
}

/// In the words of people and in three formats of machines; the fourth is JSON, of which the schema speaks.
#[test]
fn reports_are_kept() {
    let strict = report(true);
    let report = report(false);
    let mut text = String::new();
    for cell in &report.cells {
        text += &line(cell, false);
        text += "\n";
    }
    text += &summary(&report);
    text += "---- of a kernel\n";
    text += &of_kernel(&strict);
    text += "---- KTAP\n";
    text += &ktap(&report);
    text += "---- TAP 13\n";
    text += &tap13(&report);
    text += "---- JUnit\n";
    text += &junit(&report).unwrap();
    kept("vmm/core/tests/report.txt", &text);
}

/// Whatever came of a cell, it is on the page with what there is to say of it; those that somebody has to look at come first.
#[test]
fn a_page_has_each_cell_and_the_worst_first() {
    let report = report(false);
    let page = html(&report, &|_, _| Ok(None));
    for cell in &report.cells {
        assert!(page.contains(&format!("<article id=\"{}\"", cell.name)));
        assert!(page.contains(&format!("{}: {}\"", cell.name, cell.standing.name())));
    }
    let main = page.split_once("<main>").unwrap().1;
    let first = main.split_once("id=\"grid\"").unwrap().0;
    let places: Vec<usize> = [
        "✗</span> surprise",
        "≠</span> flaky",
        "?</span> inconclusive",
        "!</span> failed",
    ]
    .map(|badge| first.find(badge).expect(badge))
    .into();
    assert!(places.is_sorted(), "{places:?}");
    for words in [
        "<b>spared</b>, <b>CPU 1</b>, event 10 at 300 µs: # &quot;spared&quot; &lt;it&gt;",
        "spared: was expected to be broken, and was not",
        "inconclusive: # &quot;spared&quot; &lt;it&gt; is inconclusive",
        "the guest has no init at all",
        "runs 1 and 2 part at event 7",
        "vmm run console-locked --seed 2",
    ] {
        assert!(first.contains(words), "{words}");
    }
    assert!(
        !first.contains("as-expected"),
        "nobody has to look at those"
    );
    assert!(page.contains("7: CPU 0 Returns"));
}
