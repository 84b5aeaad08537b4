//! A tree held against the table: names, places, arguments, repetitions.

use std::collections::HashMap;

use super::Notice;
use super::diagnose::{Problem, nearest};
use super::directives::{self, Args, Contexts, Repeat, Row};
use super::syntax::{Directive, Tree, Word};

/// The first thing wrong in the order of the file, as nginx would find it; else what looks wrong and is not an error.
/// `words` reads what no type of the table describes.
pub fn verify(tree: &Tree, words: &ReadWords<'_>) -> Result<Vec<Notice>, Problem> {
    let mut notices = Vec::new();
    block(&tree.directives, Contexts::ROOT, words, &mut notices)?;
    tree.error.clone().map_or(Ok(notices), Err)
}

/// The place that the inside of a block is, by its name and where it stands. None: what is inside is no directives.
pub fn context_of(name: &str, around: Contexts) -> Option<Contexts> {
    Some(match name {
        "events" => Contexts::EVENTS,
        "rtmp" => Contexts::RTMP,
        "http" => Contexts::HTTP,
        "server" if around == Contexts::HTTP => Contexts::HTTP_SERVER,
        "server" => Contexts::SERVER,
        "location" => Contexts::LOCATION,
        "application" => Contexts::APPLICATION,
        "recorder" => Contexts::RECORDER,
        _ => return None,
    })
}

/// Is this a place inside `http {}`?
pub fn is_http(context: Contexts) -> bool {
    context.has(Contexts::HTTP.or(Contexts::HTTP_SERVER).or(Contexts::LOCATION))
}

/// A check of one directive in its place.
pub type ReadWords<'a> = dyn Fn(&Directive, Contexts) -> Result<(), Problem> + 'a;

fn block(
    directives: &[Directive],
    context: Contexts,
    words: &ReadWords<'_>,
    notices: &mut Vec<Notice>,
) -> Result<(), Problem> {
    let mut seen: HashMap<&str, &Directive> = HashMap::new();
    for directive in directives {
        let Some(row) = known(directive, context)? else { continue };
        arity(directive, row, context)?;
        let first = seen.insert(row.name, directive);
        if let (Repeat::Once, Some(first)) = (row.repeat, first) {
            return Err(Problem::at(format!("\"{}\" directive is duplicate", row.name), directive)
                .help(format!("the first one is in {}", first.name.place)));
        }
        arguments(directive, row)?;
        words(directive, context)?;
        notices.extend(swallowed(directive, context));
        let inside = context_of(row.name, context).filter(|_| !matches!(row.args, Args::Kept));
        if let (Some(inner), Some(inside)) = (&directive.block, inside) {
            block(inner, inside, words, notices)?;
        }
    }
    Ok(())
}

/// The row that holds. None: nginx's own inside `http`, of which only the name is known here.
fn known(directive: &Directive, context: Contexts) -> Result<Option<&'static Row>, Problem> {
    let name = directive.name.text.as_str();
    if let Some(row) = directives::find(name, context) {
        return Ok(Some(row));
    }
    if is_http(context) && directives::is_http(name) {
        return Ok(None);
    }
    let places: Vec<&str> = directives::rows_named(name).flat_map(|row| row.contexts.names()).collect();
    if places.is_empty() && !directives::is_http(name) {
        let here = directives::rows().filter(|row| row.contexts.has(context)).map(|row| row.name);
        let meant = nearest(name, here).or_else(|| nearest(name, directives::rows().map(|row| row.name)));
        return Err(Problem::at(format!("unknown directive \"{name}\""), directive)
            .maybe_help(meant.map(|meant| format!("did you mean `{meant}`?"))));
    }
    let places = if places.is_empty() { "http".to_owned() } else { places.join(", ") };
    Err(Problem::at(format!("\"{name}\" directive is not allowed here"), directive)
        .help(format!("it belongs in: {places}")))
}

fn arity(directive: &Directive, row: &Row, context: Contexts) -> Result<(), Problem> {
    let (from, to) = row.args.count();
    match (row.args.has_block(), directive.block.is_some()) {
        (false, true) => {
            let message = format!("directive \"{}\" is not terminated by \";\"", row.name);
            return Err(with_semicolon(message, directive));
        }
        (true, false) => {
            return Err(Problem::at(format!("directive \"{}\" has no opening \"{{\"", row.name), directive));
        }
        _ => {}
    }
    let is_hook_option = |word: &Word| word.text.contains('=');
    let is_hook = !matches!(row.args, Args::Hook) || directive.args.iter().skip(1).all(is_hook_option);
    if (from..=to).contains(&directive.args.len()) && is_hook {
        return Ok(());
    }
    let message = format!("invalid number of arguments in \"{}\" directive", row.name);
    let problem = with_semicolon(message, directive);
    if problem.help.is_some() {
        return Err(problem);
    }
    // `application live on;` and the like: a word too many that is a directive itself.
    let extra = directive.args.iter().find(|word| directives::find(&word.text, context).is_some());
    if let (Some(extra), false) = (extra, directive.block.is_some()) {
        let help = format!("`{}` is a directive itself: is a `;` missing before it?", extra.text);
        return Err(Problem::at_word(problem.message, directive, extra).help(help));
    }
    let usage = row.args.describe().replace("\\|", "|");
    Err(problem.help(format!("`{}` takes {usage}", row.name)))
}

/// An error about too many words: where one of them starts a line and is a directive, the `;` before it is missing.
fn with_semicolon(message: String, directive: &Directive) -> Problem {
    match line_starts(directive).find(|(_, word)| directives::rows_named(&word.text).next().is_some()) {
        Some((before, _)) => Problem::at_word(message, directive, before)
            .help(format!("is a `;` missing at the end of line {}?", before.place.line)),
        None => Problem::at(message, directive),
    }
}

/// The words of a directive that start a line, each with the word before it.
fn line_starts(directive: &Directive) -> impl Iterator<Item = (&Word, &Word)> {
    let words = std::iter::once(&directive.name).chain(&directive.args);
    words.zip(&directive.args).filter(|(before, word)| word.place.line > before.place.line)
}

fn arguments(directive: &Directive, row: &Row) -> Result<(), Problem> {
    for word in &directive.args {
        if let Some((message, choices)) = row.args.refuse(row.name, &word.text) {
            let meant = nearest(&word.text, choices.iter().copied()).map(|meant| format!("did you mean `{meant}`?"));
            let choices = (!choices.is_empty()).then(|| format!("it is one of: {}", choices.join(", ")));
            return Err(Problem::at_word(message, directive, word).maybe_help(meant.or(choices)));
        }
    }
    Ok(())
}

/// A list that took the next line for more words: legal, and almost never meant.
fn swallowed(directive: &Directive, context: Contexts) -> Option<Notice> {
    let (before, word) = line_starts(directive).find(|(_, word)| directives::find(&word.text, context).is_some())?;
    let text = format!(
        "takes \"{}\" at the start of line {} for an argument: is a `;` missing at the end of line {}?",
        word.text, word.place.line, before.place.line
    );
    Some(Notice { place: directive.name.place.clone(), directive: directive.name.text.clone(), text })
}
