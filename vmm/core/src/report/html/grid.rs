//! The grid: a row a scenario, a column a protocol or kernel, in each field a mark a cell.

use maud::{Markup, html};

use super::{anchor, mark, shade};
use crate::report::{CellReport, Report};

pub(super) fn grid(report: &Report) -> Markup {
    let mut columns: Vec<(&str, Vec<&str>)> = Vec::new();
    for cell in &report.cells {
        let at = columns
            .iter()
            .position(|(subject, _)| *subject == cell.subject);
        let at = at.unwrap_or_else(|| {
            columns.push((&cell.subject, Vec::new()));
            columns.len() - 1
        });
        let by = &mut columns[at].1;
        if !by.contains(&&*cell.by) {
            by.push(&cell.by);
        }
    }
    let fields: Vec<(&str, &str)> = columns
        .iter()
        .flat_map(|(subject, by)| by.iter().map(|by| (*subject, *by)))
        .collect();
    html! {
        section aria-labelledby="grid" {
            h2 #grid { "Grid" }
            p.hint { "✓ nothing broken · 1, 2, … so many rules broken, as expected · ✗ surprise · ≠ flaky · ? inconclusive · ! failed · · not run · – cannot run here" }
            div.scroll tabindex="0" role="region" aria-labelledby="grid" {
                table.grid {
                    thead {
                        tr {
                            td {}
                            @for (subject, by) in &columns { th scope="colgroup" colspan=(by.len()) { (subject) } }
                        }
                        tr {
                            td {}
                            @for (_, by) in &fields { th scope="col" { (by) } }
                        }
                    }
                    tbody {
                        @for (scenario, cells) in report.scenarios() {
                            tr {
                                th scope="row" { (scenario) }
                                @for (subject, by) in &fields {
                                    td { @for cell in cells.iter().filter(|cell| cell.subject == *subject && cell.by == *by) { (tile(cell)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn tile(cell: &CellReport) -> Markup {
    let words = format!("{}: {}", cell.name, cell.standing.name());
    html! {
        a.tile.(shade(cell)) href={ "#" (anchor(cell)) } title=(words) aria-label=(words) { (mark(cell)) }
    }
}
