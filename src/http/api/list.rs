//! Lists in pages. A cursor says behind what the next page begins, so it holds whoever comes and goes meanwhile.

use std::{cmp::Ordering, fmt::Write};

use serde::{Serialize, de::DeserializeOwned};

use super::{ask::Query, problem::Problem, types::Page};

/// Which part of a list is wanted, and in which order.
pub struct Wanted<S> {
    limit: usize,
    cursor: Option<String>,
    pub sort: S,
    /// `-` stood in front of it.
    is_reversed: bool,
    /// The word, so that no cursor of another order is taken for one of this.
    word: String,
}

impl<S: Copy> Wanted<S> {
    /// `limit`, `cursor` and `sort`; the first of `sorts` is the usual one.
    pub fn take(query: &mut Query, sorts: &[(&str, S)]) -> Result<Self, Problem> {
        let limit = query.take_as::<usize>("limit", "a number from 1 to 1000")?.unwrap_or(USUAL_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::bad("\"limit\" is to be a number from 1 to 1000"));
        }
        let cursor = query.take("cursor");
        let word = match (query.take("sort"), sorts.first()) {
            (Some(word), _) => word,
            (None, Some((first, _))) => (*first).to_owned(),
            (None, None) => String::new(),
        };
        let name = word.strip_prefix('-').unwrap_or(&word);
        let Some((_, sort)) = sorts.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = sorts.iter().map(|(known, _)| *known).collect();
            return Err(Problem::bad(format!(
                "\"sort\" is to be one of {}, with - in front to reverse it",
                known.join(", ")
            )));
        };
        Ok(Self { limit, cursor, sort: *sort, is_reversed: name.len() < word.len(), word })
    }

    /// One page. `key`: in which order they come, no two alike.
    pub fn page<T, K, V>(
        &self,
        mut items: Vec<T>,
        key: impl Fn(&T) -> K,
        show: impl Fn(&T) -> V,
    ) -> Result<Page<V>, Problem>
    where
        K: Ord + Serialize + DeserializeOwned,
    {
        let order = |one: &K, other: &K| match self.is_reversed {
            true => other.cmp(one),
            false => one.cmp(other),
        };
        let total = items.len() as u64;
        let after = self.cursor.as_deref().map(|cursor| self.read_cursor::<K>(cursor)).transpose()?;
        let mut keyed: Vec<(K, T)> = items.drain(..).map(|item| (key(&item), item)).collect();
        keyed.retain(|(key, _)| after.as_ref().is_none_or(|after| order(key, after) == Ordering::Greater));
        keyed.sort_unstable_by(|(one, _), (other, _)| order(one, other));
        let next = keyed.get(self.limit).is_some().then(|| keyed.get(self.limit - 1)).flatten();
        let next = next.map(|(key, _)| self.cursor_at(key));
        let items = keyed.iter().take(self.limit).map(|(_, item)| show(item)).collect();
        Ok(Page { items, total, next })
    }

    fn cursor_at<K: Serialize>(&self, key: &K) -> String {
        let json = serde_json::to_vec(&(&self.word, key)).unwrap_or_default();
        json.iter().fold(String::with_capacity(2 * json.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn read_cursor<K: DeserializeOwned>(&self, text: &str) -> Result<K, Problem> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        let read =
            bytes.filter(|_| rest.is_empty()).and_then(|bytes| serde_json::from_slice::<(String, K)>(&bytes).ok());
        let bad = || Problem::bad("\"cursor\" is not one that this list gave, in this order");
        read.filter(|(word, _)| *word == self.word).map(|(_, key)| key).ok_or_else(bad)
    }
}

const USUAL_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    const SORTS: &[(&str, bool)] = &[("number", false), ("tens", true)];

    fn page(query: &str, items: Vec<u64>) -> Result<Page<u64>, Problem> {
        let mut query = Query::parse(query).expect("good");
        let wanted = Wanted::take(&mut query, SORTS)?;
        wanted.page(items, |item| (if wanted.sort { item % 10 } else { 0 }, *item), |item| *item)
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_double() {
        for sort in ["number", "-number", "tens", "-tens"] {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = page(&format!("limit=7&sort={sort}{cursor}"), (0..100).collect()).expect("good");
                assert_eq!(page.total, 100);
                seen.extend(page.items);
                let Some(next) = page.next else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(seen.len(), 100, "{sort}");
            seen.sort_unstable();
            assert_eq!(seen, (0..100).collect::<Vec<_>>(), "{sort}");
        }
    }

    #[test]
    fn who_comes_or_goes_moves_nobody_to_another_page() {
        let first = page("limit=3", vec![10, 20, 30, 40, 50]).expect("good");
        assert_eq!(first.items, [10, 20, 30]);
        // 5 and 35 came, 30 and 10 went.
        let second = page(&format!("limit=3&cursor={}", first.next.expect("there is more")), vec![5, 20, 35, 40, 50]);
        assert_eq!(second.expect("good").items, [35, 40, 50]);
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let other = page("limit=1&sort=tens", vec![1, 2]).expect("good").next.expect("there is more");
        for bad in [
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=x",
            "limit=18446744073709551616",
            "sort=",
            "sort=x",
            "sort=--number",
            "cursor=",
            "cursor=zz",
            "cursor=5b5d",
            "cursor=a",
            &format!("cursor={other}"),
            "cursor=%f0%9f%98%80",
        ] {
            assert!(page(bad, vec![1, 2, 3]).is_err(), "{bad}");
        }
        assert_eq!(page("limit=1000", Vec::new()).expect("good"), Page { items: Vec::new(), total: 0, next: None });
    }
}
