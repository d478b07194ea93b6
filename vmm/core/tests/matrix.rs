//! A declaration becomes cells: which, in which order, and which not.

mod support;

use std::collections::BTreeSet;

use proptest::prelude::*;
use support::{family, text_of};
use vmm_core::matrix::{Cell, Filter, Kind, Matrix, MatrixError, Parts, Plan, Shard};

const KNOWN: [&str; 4] = [
    "console-locked",
    "idle-plain",
    "late-stores",
    "v1-1-empty-note",
];

/// A plan of what a model has no fault to find with, and Linux where the scenario needs no capture kernel.
fn plan(text: &str, pairwise: bool) -> Result<Plan, MatrixError> {
    let matrix = Matrix::parse("m.toml", &format!("format = 1\n{text}"), &KNOWN).unwrap();
    made(&matrix, pairwise)
}

fn made(matrix: &Matrix, pairwise: bool) -> Result<Plan, MatrixError> {
    let parts = Parts {
        family: &|name| Ok(family(name)),
        fits: &|kind, scenario| {
            let late = kind == Kind::Payload && scenario.late_stores;
            if late {
                Err("only the model can make that".to_owned())
            } else {
                Ok(())
            }
        },
    };
    matrix.plan(&parts, pairwise)
}

fn names(cells: &[Cell]) -> Vec<String> {
    cells.iter().map(Cell::name).collect()
}

const SMALL: &str = r#"
[[set]]
scenarios = ["idle-plain", "late-stores"]
subjects = ["model", "payload"]
protocols = ["nmi-only", "irq-only"]
cpus = ["own", 4, 8]
"#;

#[test]
fn cells_come_in_the_order_of_their_axes_and_what_cannot_be_is_counted() {
    let plan = plan(SMALL, false).unwrap();
    assert_eq!(
        names(&plan.cells),
        [
            "idle-plain/model/nmi-only/4cpus-nmi-plain",
            "idle-plain/model/nmi-only/8cpus-nmi-plain",
            "idle-plain/model/irq-only/4cpus-nmi-plain",
            "idle-plain/model/irq-only/8cpus-nmi-plain",
            "idle-plain/payload/nmi-only/4cpus-nmi-plain",
            "idle-plain/payload/nmi-only/8cpus-nmi-plain",
            "idle-plain/payload/irq-only/4cpus-nmi-plain",
            "idle-plain/payload/irq-only/8cpus-nmi-plain",
            "late-stores/model/nmi-only/3cpus-nmi-crash",
            "late-stores/model/irq-only/3cpus-nmi-crash",
        ]
    );
    assert_eq!(
        plan.left_out_text(),
        "10 combinations were left out\n     8  late-stores does not say what is expected under such conditions\n     \
         2  only the model can make that"
    );
    assert_eq!(plan.cells[1].subject(), "model:nmi-only");
}

#[test]
fn a_cell_that_is_there_twice_and_a_matrix_without_cells_are_told() {
    let twice = format!(
        "{SMALL}{}",
        SMALL.replace("\"late-stores\"", "\"console-locked\"")
    );
    assert_eq!(
        plan(&twice, false).unwrap_err().to_string(),
        "the cell idle-plain/model/nmi-only/4cpus-nmi-plain is there twice: in set 1 and in set 2, counted from 1"
    );
    let none = SMALL
        .replace("[\"own\", 4, 8]", "[3]")
        .replace("\"late-stores\"", "\"console-locked\"");
    let error = plan(&none, false).unwrap_err().to_string();
    assert!(
        error.starts_with("the matrix is empty: 8 combinations were left out\n"),
        "{error}"
    );
}

#[test]
fn a_filter_takes_cells_by_name_and_by_axis() {
    let cells = plan(SMALL, false).unwrap().cells;
    let wanted = |text: &str| -> usize {
        let filter: Filter = text.parse().unwrap();
        cells.iter().filter(|cell| filter.wants(cell)).count()
    };
    for (text, count) in [
        ("payload", 4),
        ("subject=payload", 4),
        ("by=nmi-only,by=irq-only", 10),
        ("nmi", 10),
        ("cpus=8", 4),
        ("!cpus=8", 6),
        ("stop=crash", 2),
        ("scenario=idle", 0),
        ("pseudo-nmi=off", 0),
    ] {
        assert_eq!(wanted(text), count, "{text}");
    }
    let wrong = |text: &str| text.parse::<Filter>().unwrap_err().to_string();
    assert_eq!(
        wrong("cpu=8"),
        "there is no axis `cpu`; there are scenario, subject, by, cpus, pseudo-nmi, stop"
    );
    assert!(wrong("payload,").starts_with("a part of a cell's name or AXIS=VALUE is meant"));
}

#[test]
fn the_set_of_the_project_is_what_it_promises() {
    let text = text_of("tests/matrix.toml");
    let known = support::scenario_names();
    let known: Vec<&str> = known.iter().map(|name| &**name).collect();
    let matrix = Matrix::parse("tests/matrix.toml", &text, &known).unwrap();
    let plan = made(&matrix, false).unwrap();
    let linux = plan.cells.iter().filter(|cell| cell.kind == Kind::Linux);
    let linux = linux.count();
    assert!(plan.cells.len() >= 60, "{}", plan.cells.len());
    assert!((20..=30).contains(&linux), "{linux}");
    // Of one kernel there is what fits it, whatever its name.
    let own = made(&matrix.of_kernel("./mine/Image"), false).unwrap();
    assert!(
        own.cells
            .iter()
            .all(|cell| cell.subject() == "linux:./mine/Image")
    );
    assert!(own.cells.len() >= 7, "{}", own.cells.len());
}

const WIDE: &str = r#"
[[set]]
scenarios = ["console-locked", "idle-plain", "v1-1-empty-note"]
subjects = ["model", "payload", "linux"]
kernels = ["irq-then-nmi", "nmi-only"]
cpus = ["own", 2, 8]
pseudo_nmi = [true, false]
stop = ["plain", "crash"]
"#;

fn pairs(cells: &[Cell]) -> BTreeSet<(usize, String, usize, String)> {
    let mut pairs = BTreeSet::new();
    for cell in cells {
        let axes = cell.axes();
        for a in 0..axes.len() {
            for b in a + 1..axes.len() {
                pairs.insert((a, axes[a].clone(), b, axes[b].clone()));
            }
        }
    }
    pairs
}

#[test]
fn a_thinned_set_has_every_pair_of_values_that_can_be() {
    let all = plan(WIDE, false).unwrap().cells;
    let thin = plan(WIDE, true).unwrap();
    assert!(thin.cells.len() < all.len());
    assert_eq!(pairs(&thin.cells), pairs(&all));
    let coverage = thin.coverage[0];
    assert_eq!((coverage.cells, coverage.of), (thin.cells.len(), all.len()));
    assert_eq!(coverage.pairs, pairs(&all).len());
    // The fewest cells that could do it: as many as the two longest axes have pairs.
    assert!(coverage.cells >= 3 * 7, "{coverage}");
    let order = names(&all);
    let places: Vec<usize> = names(&thin.cells)
        .iter()
        .map(|name| order.iter().position(|known| known == name).unwrap())
        .collect();
    assert!(places.is_sorted(), "the order stays");
}

proptest! {
    /// Each cell is in one part, whatever the number of parts, and no part has more than its share and one cell.
    #[test]
    fn parts_are_the_whole_and_shared_out_by_cost(of in 1_usize..12) {
        let all = plan(WIDE, false).unwrap().cells;
        let mut seen = Vec::new();
        let cost = |cells: &[Cell]| cells.iter().map(Cell::cost).sum::<u64>();
        let most = all.iter().map(Cell::cost).max().unwrap();
        for part in 1..=of {
            let shard: Shard = format!("{part}/{of}").parse().unwrap();
            let cells = shard.take(all.clone());
            prop_assert!(cost(&cells) <= cost(&all) / of as u64 + most);
            prop_assert_eq!(names(&cells), names(&shard.take(all.clone())));
            seen.extend(names(&cells));
        }
        seen.sort();
        let mut whole = names(&all);
        whole.sort();
        prop_assert_eq!(seen, whole);
    }
}

#[test]
fn a_part_is_one_of_some() {
    for wrong in ["0/2", "3/2", "1", "1/", "a/b", "1/0"] {
        assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
    }
}
