//! The directives of exec to [`Exec`].

use super::super::diagnose::Problem;
use super::super::directives;
use super::super::exec::{ArgTemplate, Command, Exec, ExecEvent, ExecRule, Keep, Redirection, Variable};
use super::super::syntax::{Directive, Word};
use super::super::values;
use super::{Builder, Scope};

/// A line as it was read, and what its author should hear.
struct Read {
    rule: ExecRule,
    remarks: Vec<String>,
}

impl Builder {
    /// What an application runs: its own lines, then those of the blocks around.
    pub(super) fn exec(&mut self, scope: &Scope<'_>) -> Result<Exec, Problem> {
        let mut rules = Vec::new();
        for block in &scope.blocks {
            for read in read_block(block, |event| event != ExecEvent::Static) {
                let (directive, read) = read?;
                for remark in read.remarks {
                    self.warn(directive, remark);
                }
                rules.push(read.rule);
            }
        }
        Ok(Exec { rules, keep: keep(scope), max_children: scope.number("exec_max_children") })
    }

    /// The `exec_static` lines that stand in this very block: each is run once, whatever inherits it.
    pub(super) fn statics(&mut self, scope: &Scope<'_>) -> Result<Vec<(ExecRule, Keep)>, Problem> {
        let mut rules = Vec::new();
        for read in read_block(scope.blocks.first().copied().unwrap_or_default(), |event| event == ExecEvent::Static) {
            let (directive, read) = read?;
            for remark in read.remarks {
                self.warn(directive, remark);
            }
            rules.push((read.rule, keep(scope)));
        }
        Ok(rules)
    }
}

/// A line that cannot be run at all.
pub(super) fn check(directive: &Directive) -> Result<(), Problem> {
    match ExecEvent::named(&directive.name.text) {
        Some(event) => read(directive, event, false).map(drop),
        None => Ok(()),
    }
}

/// The lines of a block, in their order; `exec_options` holds for those below it.
fn read_block(
    block: &[Directive],
    wanted: impl Fn(ExecEvent) -> bool,
) -> impl Iterator<Item = Result<(&Directive, Read), Problem>> {
    let mut has_options = false;
    block.iter().filter_map(move |directive| {
        let first = directive.args.first().map_or("", |word| word.text.as_str());
        if directive.name.text == "exec_options" {
            has_options = values::flag(first).unwrap_or(has_options);
        }
        let event = ExecEvent::named(&directive.name.text).filter(|event| wanted(*event))?;
        Some(read(directive, event, has_options).map(|read| (directive, read)))
    })
}

fn read(directive: &Directive, event: ExecEvent, has_options: bool) -> Result<Read, Problem> {
    let mut read = Read {
        rule: ExecRule {
            event,
            command: Command { program: String::new(), args: Vec::new(), redirections: Vec::new() },
            only: Vec::new(),
        },
        remarks: Vec::new(),
    };
    let mut words = directive.args.iter();
    // Options may stand in front of the command, too.
    let mut program = None;
    for word in words.by_ref() {
        match option(word, has_options) {
            Some(name) => read.rule.only.push(name.to_owned()),
            None => {
                program = Some(word);
                break;
            }
        }
    }
    let Some(program) = program.filter(|word| !word.text.is_empty()) else {
        return Err(Problem::at(format!("\"{}\" has no command", directive.name.text), directive));
    };
    read.rule.command.program.clone_from(&program.text);
    if program.text.contains('$') {
        read.remarks
            .push(format!("runs a command that is called \"{}\": variables are for its arguments", program.text));
    }
    for word in words {
        match (option(word, has_options), Redirection::parse(&word.text)) {
            (Some(name), _) => read.rule.only.push(name.to_owned()),
            (None, Some(Ok(redirection))) => {
                let file = redirection.try_map(|file| Ok::<_, Problem>(read.template(file, event)))?;
                read.rule.command.redirections.push(file);
            }
            (None, Some(Err(_))) => {
                return Err(Problem::at_word(
                    format!("unsupported redirection \"{}\" in \"{}\"", word.text, directive.name.text),
                    directive,
                    word,
                )
                .help("it is one of: `>file`, `>>file`, `<file` with 0, 1 or 2 in front, and `2>&1`; quote it for a shell"));
            }
            (None, None) => {
                read.remarks.extend(shell_word(&word.text));
                let template = read.template(&word.text, event);
                read.rule.command.args.push(template);
            }
        }
    }
    Ok(read)
}

impl Read {
    fn template(&mut self, word: &str, event: ExecEvent) -> ArgTemplate {
        if event == ExecEvent::Static {
            return ArgTemplate::plain(word);
        }
        let (template, unknown) = ArgTemplate::parse(word);
        for name in unknown {
            let remark = if Variable::is_of_recordings(&name) {
                format!("has no recording to tell of: ${name} is empty")
            } else {
                let meant = Variable::nearest(&name).map(|meant| format!(", did you mean ${{{meant}}}?"));
                format!("knows no variable ${name}: it is empty{}", meant.unwrap_or_default())
            };
            self.remarks.push(remark);
        }
        for variable in template.variables().filter(|variable| !event.knows(*variable)) {
            self.remarks.push(format!("is run for whoever comes: ${} is empty", variable.name()));
        }
        template
    }
}

/// The name in `name=STREAM`, where that is an option and not an argument.
fn option(word: &Word, has_options: bool) -> Option<&str> {
    word.text.strip_prefix("name=").filter(|_| has_options)
}

/// What a shell would take for its own.
fn shell_word(word: &str) -> Option<String> {
    let without_number = word.trim_start_matches(|c: char| c.is_ascii_digit());
    if [">", ">>", "<"].contains(&without_number) {
        return Some(format!(
            "passes \"{word}\" to the command: between a redirection and its file there must be no blank, as in `{word}file`"
        ));
    }
    ["|", "||", "&", "&&", ";"]
        .contains(&word)
        .then(|| format!("passes \"{word}\" to the command: no shell looks at it, unless you run one: bash -c '…'"))
}

fn keep(scope: &Scope<'_>) -> Keep {
    let signal = scope.word("exec_kill_signal");
    let usual = Keep::default();
    Keep {
        respawn: scope.flag("respawn"),
        respawn_timeout: scope.time("respawn_timeout"),
        kill_signal: directives::signal_number(signal).unwrap_or(usual.kill_signal),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Config;
    use super::super::super::exec::{ArgPart, Redirect, Standard};
    use super::*;

    fn load(text: &str) -> Config {
        Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    fn inside(text: &str) -> Config {
        load(&format!("rtmp {{ server {{ application a {{ {text} }} }} }}"))
    }

    fn exec(config: &Config) -> &Exec {
        &config.servers[0].applications[0].exec
    }

    fn programs(exec: &Exec) -> Vec<(ExecEvent, &str)> {
        exec.rules.iter().map(|rule| (rule.event, rule.command.program.as_str())).collect()
    }

    #[test]
    fn own_lines_come_first_and_those_around_follow() {
        let config = load(
            "rtmp { exec m; respawn_timeout 1s; exec_kill_signal term;
               server { exec_push s; respawn off; application a { exec_pull p; exec a; respawn_timeout 2s; } application b { } } }",
        );
        let both = config.servers[0].applications.as_slice();
        use ExecEvent::{Pull, Push};
        assert_eq!(programs(&both[0].exec), [(Pull, "p"), (Push, "a"), (Push, "s"), (Push, "m")]);
        assert_eq!(programs(&both[1].exec), [(Push, "s"), (Push, "m")]);
        let keep = |seconds| Keep {
            respawn: false,
            respawn_timeout: std::time::Duration::from_secs(seconds),
            kill_signal: 15,
        };
        assert_eq!((both[0].exec.keep, both[1].exec.keep), (keep(2), keep(1)));
        assert!(both[0].exec.pulls() && !both[1].exec.pulls());
    }

    #[test]
    fn what_is_not_written_is_the_familys() {
        assert_eq!(exec(&inside("")), &Exec::default());
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (word, number) in [("KILL", 9), ("term", 15), ("USR1", 10), ("9", 9), ("2", 2)] {
            assert_eq!(exec(&inside(&format!("exec_kill_signal {word};"))).keep.kill_signal, number, "{word}");
        }
    }

    #[test]
    fn options_hold_for_the_lines_below_them() {
        let config = inside("exec a name=x; exec_options on; exec b name=x 1 name=y; exec name=z c; exec d;");
        let only: Vec<_> =
            exec(&config).rules.iter().map(|rule| (rule.only.join(" "), rule.command.args.len())).collect();
        let expected = [("", 1), ("x y", 1), ("z", 0), ("", 0)];
        assert_eq!(only, expected.map(|(only, args)| (only.to_owned(), args)));
        let rule = &exec(&config).rules[1];
        assert!(rule.is_for("x") && rule.is_for("y") && !rule.is_for("z"));
        // They are of their block alone.
        let config = load("rtmp { exec_options on; server { application a { exec b name=x; } } }");
        assert_eq!(exec(&config).rules[0].only.len(), 0);
    }

    #[test]
    fn a_line_is_a_command_its_arguments_and_its_redirections() {
        let config = inside("exec ffmpeg -i rtmp://h/$app/$name 2>>e-$name.log >/dev/null 2>&1 -f flv 'a b';");
        let command = &exec(&config).rules[0].command;
        assert_eq!((command.program.as_str(), command.args.len()), ("ffmpeg", 5));
        let streams: Vec<_> = command.redirections.iter().map(|redirection| redirection.stream).collect();
        assert_eq!(streams, [Standard::Error, Standard::Output, Standard::Error]);
        assert_eq!(command.redirections[2].to, Redirect::Same(Standard::Output));
        let Redirect::Append(file) = &command.redirections[0].to else { panic!("{command:?}") };
        assert_eq!(file.parts().get(1), Some(&ArgPart::Variable(Variable::Name)));
        assert_eq!(config.warnings, []);
    }

    #[test]
    fn lines_that_look_wrong_are_said_at_load() {
        for (line, said) in [
            ("exec a > file;", "passes \">\" to the command"),
            ("exec a 2>> file;", "as in `2>>file`"),
            ("exec a | b;", "no shell looks at it"),
            ("exec a && b;", "no shell looks at it"),
            ("exec a $nam;", "knows no variable $nam: it is empty, did you mean ${name}?"),
            ("exec a $path;", "has no recording to tell of: $path is empty"),
            ("exec_pull a $args;", "is run for whoever comes: $args is empty"),
            ("exec $name;", "variables are for its arguments"),
        ] {
            let config = inside(line);
            let [warning] = config.warnings.as_slice() else { panic!("{line}: {:?}", config.warnings) };
            assert!(warning.text.contains(said), "{line}: {warning}");
        }
    }

    #[test]
    fn redirections_that_cannot_be_are_refused_with_a_caret() {
        for (line, word) in [("exec a 3>x;", "3>x"), ("exec a 2>&5 b;", "2>&5"), ("exec a <<x;", "<<x")] {
            let text = format!("rtmp {{ server {{ application a {{\n{line}\n}} }} }}");
            let error = Config::parse("x.conf", text.as_bytes()).expect_err(line);
            assert_eq!(error.message, format!("unsupported redirection \"{word}\" in \"exec\" in x.conf:2"));
            assert!(error.detail.contains(&"^".repeat(word.len())), "{error}");
        }
        let error = Config::parse("x.conf", b"rtmp { server { application a { exec ''; } } }").expect_err("no command");
        assert!(error.message.starts_with("\"exec\" has no command"), "{error}");
    }

    #[test]
    fn static_lines_are_run_once_whatever_inherits_them() {
        let config = load(
            "rtmp { exec_static m $name; server { exec_static s; respawn off;
               application a { exec_static a; } application b { } } }",
        );
        let statics: Vec<_> =
            config.exec_static.iter().map(|(rule, keep)| (rule.command.program.as_str(), keep.respawn)).collect();
        assert_eq!(statics, [("m", true), ("s", false), ("a", false)]);
        assert_eq!(config.exec_static[0].0.command.args, [ArgTemplate::plain("$name")], "there is no stream to name");
        assert!(config.servers[0].applications.iter().all(|application| application.exec.rules.is_empty()));
        assert_eq!(config.warnings, []);
    }
}
