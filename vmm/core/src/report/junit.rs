//! JUnit's XML: a suite a scenario, with a case a cell.

use std::time::Duration;

use quick_junit::{NonSuccessKind, SerializeError, TestCase, TestCaseStatus, TestSuite};

use super::text::{parted, telling, why};
use super::{CellReport, Report, Standing};

/// The report in JUnit's XML.
pub fn junit(report: &Report) -> Result<String, SerializeError> {
    let mut junit = quick_junit::Report::new(format!("vmm matrix {}", report.matrix));
    for (scenario, cells) in report.scenarios() {
        let mut suite = TestSuite::new(scenario);
        for cell in cells {
            suite.add_test_case(case(cell, report.strict));
        }
        junit.add_test_suite(suite);
    }
    // The root's `skipped` is younger than the schema that Jenkins checks by (junit-10.xsd of its xUnit plugin); the suites have it, too.
    let text = junit.to_string()?;
    let suites = text.find("<testsuite ").unwrap_or(text.len());
    let (root, suites) = text.split_at(suites);
    let skipped = format!(" skipped=\"{}\"", junit.skipped);
    Ok(root.replacen(&skipped, "", 1) + suites)
}

fn case(cell: &CellReport, strict: bool) -> TestCase {
    let failed = |kind| TestCaseStatus::non_success(kind);
    let mut status = match cell.standing {
        Standing::AsExpected => TestCaseStatus::success(),
        Standing::CannotRun | Standing::NotRun => TestCaseStatus::skipped(),
        Standing::Failed => failed(NonSuccessKind::Error),
        Standing::Surprise | Standing::Flaky | Standing::Inconclusive => {
            failed(NonSuccessKind::Failure)
        }
    };
    let mut lines = why(cell, strict);
    let first = lines.first().cloned();
    lines.extend(parted(cell));
    if cell.standing != Standing::AsExpected {
        status.set_message(first.unwrap_or_else(|| cell.standing.name().to_owned()));
    }
    if !cell.standing.is_good() && cell.standing != Standing::NotRun {
        if let Some(run) = telling(cell, strict) {
            lines.push(format!("repeat: {}", run.repeat));
        }
        status.set_type(cell.standing.name());
        status.set_description(lines.join("\n"));
    }
    let mut case = TestCase::new(&*cell.name, status);
    case.set_classname(&*cell.scenario);

    case.set_time(Duration::try_from_secs_f64(cell.seconds()).unwrap_or_default());
    case
}
