//! What a story tells of runs of the model, and what becomes of it on a page and in a trace.

mod support;

use guest_abi::protocol::{Protocol, Request};
use support::{family, kept, scenario};
use vmm_core::arm::CpuId;
use vmm_core::choose::Directed;
use vmm_core::evidence::{Evidence, Manner, NoteState, What};
use vmm_core::matrix::{Kind, Matrix, Parts};
use vmm_core::model;
use vmm_core::oracle::judge;
use vmm_core::report::*;
use vmm_core::story::*;

fn evidence(name: &str, protocol: &str) -> Evidence {
    let protocol = Protocol::named(protocol).unwrap();
    let run = model::run(&scenario(name), protocol, &mut Directed);
    run.unwrap().evidence
}

fn told(evidence: &Evidence) -> Story {
    Story::of(evidence, &judge(evidence))
}

/// The story in words, so that what changes in it can be read.
fn in_words(story: &Story) -> String {
    let mut text = format!("{}\n", story.title);
    for lane in &story.lanes {
        let doing = lane
            .doing
            .iter()
            .map(|span| format!("{} {}", span.from, span.is.name()));
        let doing: Vec<String> = doing.collect();
        text += &format!("  CPU {}: {}\n", lane.cpu, doing.join(", "));
        let spans = |spans: &[Span<()>]| {
            let spans = spans
                .iter()
                .map(|span| format!("{}-{}", span.from, span.to));
            spans.collect::<Vec<_>>().join(" ")
        };
        let notes = lane
            .note
            .iter()
            .map(|span| format!("{} {}", span.from, span.is));
        text += &format!(
            "    section {}; online {}; to stop {}; note {}\n",
            spans(&lane.section),
            spans(&lane.online),
            spans(&lane.mask),
            notes.collect::<Vec<_>>().join(" ")
        );
    }
    for rung in &story.rungs {
        let end = if rung.is.ran_out { "runs out" } else { "ends" };
        let (from, to, us) = (rung.from, rung.to, rung.is.us.unwrap_or_default());
        text += &format!(
            "  rung {} of CPU {}, {us} us: {from} {end} {to}\n",
            rung.is.word(),
            rung.is.sender
        );
    }
    for arrow in &story.arrows {
        let taken = arrow.taken.map_or("never".to_owned(), |at| at.to_string());
        text += &format!(
            "  {} {} -> {}: {} taken {taken}\n",
            arrow.word(),
            arrow.sender,
            arrow.to,
            arrow.sent
        );
    }
    for line in &story.wire.lines {
        let parts = line
            .parts
            .iter()
            .map(|(cpu, part)| format!("{cpu} {part:?}"));
        text += &format!(
            "  wire {}: {:?}, ended: {}\n",
            parts.collect::<Vec<_>>().join(" "),
            line.record,
            line.ended
        );
    }
    for missing in &story.wire.missing {
        text += &format!("  never whole: {missing:?}\n");
    }
    for note in &story.notes {
        text += &format!(
            "  note of CPU {}: {}, met {:?}, differs {:?}\n",
            note.cpu, note.state, note.met, note.differs
        );
    }
    text
}

#[test]
fn stories_are_kept() {
    let runs = [
        ("console-locked", "nmi-only"),
        ("console-locked-forever", "irq-then-nmi"),
        ("v1-5-unplug", "v1-proposal"),
        ("three-panics", "irq-then-nmi"),
    ];
    let text: String = runs
        .iter()
        .map(|(name, protocol)| in_words(&told(&evidence(name, protocol))))
        .collect();
    kept("vmm/core/tests/story.txt", &text);
}

/// What holds of every story, whatever it is of.
#[test]
fn a_story_has_no_gap_and_no_arrow_before_its_request() {
    for name in support::scenario_names() {
        let scenario = scenario(&name);
        if model::fits(&scenario).is_err() {
            continue;
        }
        for protocol in guest_abi::protocol::PROTOCOLS {
            let evidence = model::run(&scenario, protocol, &mut Directed)
                .unwrap()
                .evidence;
            let story = told(&evidence);
            let events = evidence.events.len();
            for lane in &story.lanes {
                let ends = lane.doing.iter().map(|span| span.to);
                let begins = lane.doing.iter().map(|span| span.from);
                let joined: Vec<usize> = std::iter::once(0).chain(ends).collect();
                let begun: Vec<usize> = begins.chain([events]).collect();
                assert_eq!(joined, begun, "{}: CPU {}", story.title, lane.cpu);
            }
            for arrow in &story.arrows {
                assert!(arrow.taken.is_none_or(|taken| taken > arrow.sent));
            }
            let taken = story.arrows.iter().filter(|arrow| arrow.taken.is_some());
            let takes = evidence.events.iter().filter(|event| {
                use vmm_core::evidence::Interrupt;
                matches!(
                    &event.what,
                    What::Takes {
                        by: Interrupt::Stop(_),
                        ..
                    }
                )
            });
            assert_eq!(taken.count(), takes.count(), "{}", story.title);
        }
    }
}

#[test]
fn a_lane_says_what_its_cpu_does() {
    let story = told(&evidence("console-locked", "nmi-only"));
    let talker = &story.lanes[1];
    let doing: Vec<Doing> = talker.doing.iter().map(|span| span.is).collect();
    assert_eq!(
        doing,
        [
            Doing::Runs,
            Doing::IrqsOff,
            Doing::Held(Manner::Stall),
            Doing::Nmi,
            Doing::Off
        ]
    );
    // Its hold is over long after it is off, and it never left the section.
    assert_eq!(talker.section.len(), 1);
    assert_eq!(talker.section[0].to, story.moments.len());
    let note: Vec<NoteState> = talker.note.iter().map(|span| span.is).collect();
    assert_eq!(note, [NoteState::Torn, NoteState::Complete]);
    let [rung] = &story.rungs[..] else {
        panic!("{:?}", story.rungs)
    };
    assert_eq!((rung.is.via, rung.is.ran_out), (Request::Nmi, false));
    let to: Vec<CpuId> = story.arrows.iter().map(|arrow| arrow.to).collect();
    assert_eq!(to, [CpuId(1), CpuId(2), CpuId(3)]);
}

/// A report of two cells of the model, one of them not as it is expected.
fn report() -> Report {
    let text = r#"format = 1
[[set]]
scenarios = ["console-locked"]
subjects = ["model"]
protocols = ["nmi-only", "irq-then-nmi"]
"#;
    let matrix = Matrix::parse("<m>.toml", text, &["console-locked"]).unwrap();
    let parts = Parts {
        family: &|name| Ok(family(name)),
        fits: &|_: Kind, _| Ok(()),
    };
    let plan = matrix.plan(&parts, false).unwrap();
    let run = |protocol: &str| Run {
        run: 1,
        seed: 1,
        seconds: 0.0,
        repeat: format!("vmm explore console-locked --subject model:{protocol} --quoted '<&\">'"),
        evidence: None,
        came: Came::Judged(judged(&evidence("console-locked", protocol))),
    };
    let cells = plan.cells.iter().zip(["nmi-only", "irq-then-nmi"]);
    let cells = cells.map(|(cell, protocol)| CellReport::new(cell, vec![run(protocol)], 1, false));
    let about = About {
        matrix: "<m>.toml".to_owned(),
        strict: false,
        shard: None,
        repeat: 1,
    };
    Report::new(about, &plan, cells.collect())
}

/// Nothing is expected to be broken.
fn judged(evidence: &Evidence) -> Judged {
    use vmm_core::oracle::Verdict;
    let rules = judge(evidence).0.into_iter().map(|(rule, verdict)| {
        let breach = match &verdict {
            Verdict::Broken(breach) => Some(breach.clone()),
            _ => None,
        };
        RuleSaid {
            rule: rule.name().to_owned(),
            verdict: verdict.name().to_owned(),
            cpu: breach.as_ref().map(|breach| breach.cpu.0),
            at_us: breach.as_ref().map(|breach| breach.at_us),
            event: breach.as_ref().and_then(|breach| breach.event),
            text: breach.map(|breach| breach.text),
        }
    });
    Judged {
        protocol: evidence.setting.protocol.name.clone(),
        schedule: None,
        directed: true,
        expected: Vec::new(),
        untested: Vec::new(),
        rules: rules.collect(),
    }
}

fn page(report: &Report, talks: &str) -> String {
    html(report, &|cell, _| {
        let mut evidence = evidence("console-locked", &cell.by);
        for event in &mut evidence.events {
            if let What::Wire(bytes) = &mut event.what {
                *bytes = [talks.as_bytes(), bytes].concat().into();
            }
        }
        Ok(Some(told(&evidence)))
    })
}

#[test]
fn a_page_names_first_the_rule_the_cpu_and_the_command() {
    let page = page(&report(), "");
    let first = page.split_once("<h2 id=\"grid\">").unwrap().0;
    let first = first.split_once("<h2 id=\"look\">").unwrap().1;
    for words in [
        "href=\"#console-locked/model/nmi-only/4cpus-nmi-crash\"",
        "<b>spared</b>, <b>CPU 1</b>, event 10 at 0 µs: stopped by nmi inside the critical section",
        "vmm explore console-locked --subject model:nmi-only",
    ] {
        assert!(first.contains(words), "{words}: {first}");
    }
    assert!(!first.contains("irq-then-nmi"), "{first}");
    assert!(page.contains("id=\"console-locked/model/nmi-only/4cpus-nmi-crash\""));
    assert!(page.contains("✂ record cut"));
}

/// What a guest says on its console, and what a name has in it, is text.
#[test]
fn nothing_on_a_page_is_taken_for_markup_or_fetched() {
    let page = page(&report(), "</pre><script>alert(1)</script><img src=x>");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    for never in [
        "<script", "<img", "<m>", "http://", "https://", "src=x>", "'<&\"",
    ] {
        assert!(!page.contains(never), "{never}");
    }
    assert!(page.contains("&lt;m&gt;.toml"));
    // The one link is an empty icon, without which a browser asks its server for one.
    assert_eq!(page.matches("<link ").count(), 1);
    assert!(page.contains("<link rel=\"icon\" href=\"data:,\">"));
}

#[test]
fn a_run_without_evidence_says_so_and_one_whose_evidence_is_damaged_says_why() {
    let report = report();
    let page = html(&report, &|cell, _| match &*cell.by {
        "nmi-only" => Ok(None),
        _ => Err("notes.bin is not what SHA256SUMS says".to_owned()),
    });
    assert!(page.contains("There is no evidence of it to tell its story from."));
    assert!(page.contains("Its story cannot be told: notes.bin is not what SHA256SUMS says"));
}
