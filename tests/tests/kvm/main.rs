//! The `vmm` command on real KVM: natively where there is some, else in the lab, of which one boot serves most tests.
//!
//! With `-- --ignored` the tests run that take long (`make soak`).

mod boot;
mod console;
mod debugging;
mod errors;
mod gdb;
mod hostile;
mod kdump;
mod lab;
mod linux;
mod matrix;
mod run;
mod slurm;
mod tty;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use e2e::Lab;
use libtest_mimic::{Arguments, Trial};

/// The lab that tests share, started by the first that needs it.
#[derive(Clone, Default)]
pub(crate) struct SharedLab(Arc<Mutex<Option<Arc<Lab>>>>);

impl SharedLab {
    fn get(&self) -> Arc<Lab> {
        let mut lab = self
            .0
            .lock()
            .expect("starting the lab panicked in another test");
        Arc::clone(lab.get_or_insert_with(|| Arc::new(Lab::start())))
    }

    /// A test in the shared lab. Its failures are panics, as everywhere.
    fn trial(&self, name: impl Into<String>, test: impl FnOnce(&Lab) + Send + 'static) -> Trial {
        let shared = self.clone();
        Trial::test(name, move || {
            test(&shared.get());
            Ok(())
        })
    }
}

/// A test that has no use for the shared lab.
fn alone(name: impl Into<String>, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Guests share two emulated processors: more at once only take longer.
    arguments.test_threads.get_or_insert(2);
    let shared = SharedLab::default();
    let mut trials = boot::trials(&shared);
    trials.extend(console::trials(&shared));
    trials.extend(debugging::trials(&shared));
    trials.extend(errors::trials(&shared));
    trials.extend(gdb::trials(&shared));
    trials.extend(hostile::trials(&shared));
    trials.extend(kdump::trials(&shared));
    trials.extend(lab::trials(&shared));
    trials.extend(linux::trials(&shared));
    trials.extend(matrix::trials(&shared));
    trials.extend(run::trials(&shared));
    trials.extend(slurm::trials(&shared));
    trials.extend(tty::trials(&shared));
    let conclusion = libtest_mimic::run(&arguments, trials);
    let lab = shared
        .0
        .lock()
        .ok()
        .and_then(|mut lab| lab.take())
        .and_then(Arc::into_inner);
    if let Some(outcome) = lab.and_then(Lab::end) {
        // A lab that ends badly after good tests is a fault all the same.
        if outcome.code != 0 {
            eprintln!("the shared lab ended badly:\n{}", outcome.story());
            return ExitCode::FAILURE;
        }
    }
    conclusion.exit_code()
}
