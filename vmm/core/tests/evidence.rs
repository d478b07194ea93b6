//! The evidence folder: what is written is read back, and what is damaged is refused.

use std::sync::Arc;

use guest_abi::point::Point;
use guest_abi::protocol::{PROTOCOLS, Request, Word};
use proptest::prelude::*;
use proptest::sample::select;
use vmm_core::arm::{CpuId, CpuSet};
use vmm_core::evidence::*;

const CPUS: u16 = 70;

fn cpu() -> impl Strategy<Value = CpuId> {
    (0..CPUS).prop_map(CpuId)
}

fn set() -> impl Strategy<Value = CpuSet> {
    proptest::collection::vec(cpu(), 0..6).prop_map(|cpus| cpus.into_iter().collect())
}

fn regs() -> impl Strategy<Value = Arc<Regs>> {
    (any::<[u64; 31]>(), any::<u64>(), any::<u64>(), any::<u64>())
        .prop_map(|(x, sp, pc, pstate)| Arc::new(Regs { x, sp, pc, pstate }))
}

fn note() -> impl Strategy<Value = Arc<Note>> {
    prop_oneof![
        regs().prop_map(|regs| Arc::new(Note::complete(&regs))),
        regs().prop_map(|regs| Arc::new(Note::torn(&regs, None))),
        proptest::collection::vec(any::<u8>(), 424)
            .prop_map(|bytes| Arc::new(Note(bytes.try_into().expect("424 bytes")))),
    ]
}

fn what() -> impl Strategy<Value = What> {
    let request = || select(vec![Request::Irq, Request::Nmi, Request::Sdei]);
    let stop = || select(vec![StopKind::Plain, StopKind::Crash]);
    let text = || any::<String>().prop_map(|text| Arc::from(text.as_str()));
    let until = prop_oneof![
        any::<u64>().prop_map(Until::AfterRequest),
        Just(Until::Event),
        Just(Until::Never)
    ];
    prop_oneof![
        stop().prop_map(What::Calls),
        (stop(), set(), any::<bool>()).prop_map(|(stop, others, running)| What::Climbs {
            stop,
            others,
            running
        }),
        set().prop_map(What::Reads),
        (request(), set()).prop_map(|(via, to)| What::Requests { via, to }),
        request().prop_map(What::RungOut),
        select(vec![Onward::Kexec, Onward::Reset, Onward::PanicEnd]).prop_map(What::Goes),
        (any::<u8>(), text(), any::<bool>()).prop_map(|(level, text, shown)| What::Logs {
            level,
            text,
            shown
        }),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| What::Wire(bytes.into())),
        (request(), proptest::option::of(regs())).prop_map(|(request, regs)| What::Takes {
            by: Interrupt::Stop(request),
            regs
        }),
        note().prop_map(What::Notes),
        note().prop_map(What::CaptureNote),
        text().prop_map(What::CaptureFails),
        (
            select(Word::ALL.to_vec()),
            select(vec![
                Hand::Handler,
                Hand::SelfStop,
                Hand::Hotplug,
                Hand::Redirect
            ])
        )
            .prop_map(|(word, by)| What::Clears { word, by }),
        (
            proptest::option::of(select(Point::ALL.to_vec())),
            select(vec![Manner::Stall, Manner::Spin, Manner::Freeze]),
            until
        )
            .prop_map(|(at, manner, until)| What::Holds { at, manner, until }),
        (0u8..16, any::<u8>()).prop_map(|(sgi, priority)| What::Active { sgi, priority }),
        (0u8..16).prop_map(|sgi| What::Pending { sgi }),
        text().prop_map(What::Runs),
        select(vec![
            What::Returns,
            What::Flushed,
            What::Takes {
                by: Interrupt::Foreign,
                regs: None
            },
            What::Enters,
            What::Leaves,
            What::SelfStops,
            What::Parks,
            What::PowersOff,
            What::Unplugs,
            What::ComesUp,
            What::Releases,
            What::CaptureUp,
        ]),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let seen = select(vec![Seen::Told, Seen::Trapped, Seen::Quiesce]);
    let masks =
        proptest::option::of((0u8..16, any::<u8>()).prop_map(|(daif, pmr)| Masks { daif, pmr }));
    (any::<u64>(), cpu(), seen, masks, what()).prop_map(|(at_us, cpu, seen, masks, what)| Event {
        at_us,
        cpu,
        seen,
        masks,
        what,
    })
}

fn places() -> impl Strategy<Value = Places> {
    let kind = select(vec![
        PlaceKind::Section,
        PlaceKind::StopPath,
        PlaceKind::CrashKexec,
        PlaceKind::Other,
    ]);
    let place = (0..u64::MAX / 2, 1u64..0x1000, kind, "[a-z_]{1,12}").prop_map(
        |(start, len, kind, name)| Place {
            start,
            end: start + len,
            kind,
            name,
        },
    );
    proptest::collection::vec(place, 0..4).prop_map(Places)
}

fn evidence() -> impl Strategy<Value = Evidence> {
    let names = (
        any::<String>(),
        any::<String>(),
        any::<String>(),
        proptest::option::of(any::<String>()),
    );
    let runs = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        proptest::option::of(any::<u64>()),
        set(),
    );
    let rungs = proptest::collection::vec(
        (
            select(vec![Request::Irq, Request::Nmi, Request::Sdei]),
            any::<u64>(),
        ),
        0..3,
    );
    let end = prop_oneof![Just(End::Complete), any::<String>().prop_map(End::CutShort)];
    let events = proptest::collection::vec(event(), 0..12);
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
    let pstore = proptest::option::of((bytes(), proptest::option::of(bytes())));
    let pstore = pstore.prop_map(|kept| kept.map(|(console, found)| Pstore { console, found }));
    (
        names,
        runs,
        rungs,
        end,
        (events, places(), pstore, proptest::option::of(bytes())),
        select(PROTOCOLS.to_vec()),
    )
        .prop_map(
            |(names, runs, rungs, end, (events, places, pstore, dmesg), protocol)| {
                let (subject, scenario, host, build_id) = names;
                let (pseudo_nmi, ack_located, capture, seed, online) = runs;
                Evidence {
                    setting: Setting {
                        subject,
                        protocol: protocol.into(),
                        scenario: scenario.clone(),
                        version: "0.1.0".to_owned(),
                        host,
                        schedule: build_id.clone(),
                        build_id,
                        seed,
                        cpus: CPUS,
                        online,
                        pseudo_nmi,
                        rungs,
                        ack_located,
                        capture,
                    },
                    events,
                    places,
                    end,
                    scenario,
                    pstore,
                    dmesg,
                }
            },
        )
}

proptest! {
    #[test]
    fn parse_undoes_print(evidence in evidence()) {
        let files = evidence.to_files();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        let own: Vec<&str> = names.iter().filter(|name| !OPTIONAL.contains(*name)).copied().collect();
        prop_assert_eq!(&own, &NAMES);
        let kept = evidence.pstore.as_ref().map_or(0, |kept| 1 + usize::from(kept.found.is_some()));
        let kept = kept + usize::from(evidence.dmesg.is_some());
        prop_assert_eq!(names.len(), NAMES.len() + kept);
        let read = Evidence::from_files(&files).expect("what was written is read");
        prop_assert_eq!(&read, &evidence);
        prop_assert_eq!(vmm_core::oracle::judge(&read).0.len(), vmm_core::oracle::Rule::ALL.len());
    }

    #[test]
    fn one_changed_byte_is_refused(evidence in evidence(), file: usize, at: usize, bit in 0u32..8) {
        let mut files = evidence.to_files();
        let file = file % files.len();
        let bytes = files.values_mut().nth(file).expect("there are more");
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Evidence::from_files(&files).is_err());
        }
    }

    #[test]
    fn a_cut_file_is_refused(evidence in evidence(), file: usize, keep: usize) {
        let mut files = evidence.to_files();
        let file = file % files.len();
        let bytes = files.values_mut().nth(file).expect("there are more");
        if !bytes.is_empty() {
            bytes.truncate(keep % bytes.len());
            prop_assert!(Evidence::from_files(&files).is_err());
        }
    }

    // With sums that hold, the parsers behind them see the bytes.
    #[test]
    fn no_bytes_make_the_parsers_panic(
        evidence in evidence(), file in 1usize..NAMES.len() + OPTIONAL.len(), at: usize, new: Vec<u8>
    ) {
        let mut files = evidence.to_files();
        let name = NAMES.into_iter().chain(OPTIONAL).nth(file).expect("there are so many");
        let bytes = files.entry(name.to_owned()).or_default();
        let at = at % (bytes.len() + 1);
        let end = (at + new.len()).min(bytes.len());
        bytes.splice(at..end, new);
        Evidence::seal(&mut files);
        if let Ok(read) = Evidence::from_files(&files) {
            let _ = vmm_core::oracle::judge(&read);
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    assert_eq!(
        Evidence::from_files(&Files::new())
            .expect_err("an empty folder")
            .to_string(),
        "SHA256SUMS is missing: this is no evidence folder, or not a whole one"
    );
}
