use std::{fs, path::PathBuf};

use clap::{Args, CommandFactory as _};
use clap_mangen::Man;

use crate::{arguments::Cli, failure::Failure, output::print_line};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle man | man -l -
  tsoracle man --out /usr/local/share/man/man1  tsoracle.1, tsoracle-serve.1 and so on";

/// Options of `tsoracle man`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Write a page for each command into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let cannot = |error| Failure::failed(format!("cannot write the manual pages: {error:#}"));
    match &arguments.out {
        Some(directory) => fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
            .map_err(cannot),
        None => {
            let mut page = Vec::new();
            Man::new(Cli::command()).render(&mut page).map_err(cannot)?;
            print_line(String::from_utf8_lossy(&page).trim_end())
        }
    }
}
