//! The flags that may stand before a command, behind it, and both: what is given more than once adds up, in the order in which it stands.
//!
//! Of a flag that clap makes global only the values of the last place arrive: so each command gets these flags as its own, and they are gathered.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};

use super::Cli;

/// As the fields of [`super::Common`] are named.
const FILES: &str = "files";
const SET: &str = "set";

/// Reads a command line.
pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches_from(words)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.common.files = everywhere::<PathBuf>(&matches, FILES);
    cli.common.set = everywhere::<String>(&matches, SET);
    Ok(cli)
}

/// The tree of commands in which each has these flags of its own.
fn command() -> Command {
    let whole = Cli::command().mut_arg(FILES, |arg| arg.global(false)).mut_arg(SET, |arg| arg.global(false));
    let flags: Vec<Arg> = whole.get_arguments().filter(|arg| arg.get_id() == FILES || arg.get_id() == SET).cloned().collect();
    below(whole, &flags)
}

fn below(command: Command, flags: &[Arg]) -> Command {
    command.mut_subcommands(|sub| below(sub.args(flags), flags))
}

/// What is given on the command line, from the first place to the last; else what is found elsewhere, as in the environment.
fn everywhere<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, flag: &str) -> Vec<T> {
    let values = |matches: &ArgMatches| matches.get_many::<T>(flag).into_iter().flatten().cloned().collect::<Vec<T>>();
    let places = std::iter::successors(Some(matches), |matches| matches.subcommand().map(|(_, matches)| matches));
    let written: Vec<&ArgMatches> = places.filter(|matches| matches.value_source(flag) == Some(ValueSource::CommandLine)).collect();
    if written.is_empty() { values(matches) } else { written.into_iter().flat_map(values).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_and_behind_a_command_adds_up() {
        for (line, files, set) in [
            ("fusebox run", vec![], vec![]),
            ("fusebox --set a=1 run --set b=2", vec![], vec!["a=1", "b=2"]),
            ("fusebox --set a=1 retry --set b=2 release --all --set c=3 --set d=4", vec![], vec!["a=1", "b=2", "c=3", "d=4"]),
            ("fusebox -c one.toml config --config two.toml,three.toml check -c four.toml", vec!["one", "two", "three", "four"], vec![]),
            ("fusebox run --set a=1 -c one.toml", vec!["one"], vec!["a=1"]),
        ] {
            let cli = parse(line.split(' ').map(Into::into)).expect("a command line");
            let files: Vec<_> = files.into_iter().map(|name| PathBuf::from(format!("{name}.toml"))).collect();
            assert_eq!((cli.common.files, cli.common.set), (files, set.into_iter().map(str::to_owned).collect()), "{line}");
        }
        for line in ["fusebox run --set", "fusebox run --sett a=1"] {
            assert!(parse(line.split(' ').map(Into::into)).is_err(), "{line}");
        }
    }

    #[test]
    fn the_tree_of_commands_is_sound() {
        command().debug_assert();
    }
}
