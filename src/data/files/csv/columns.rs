//! Which columns of a file are taken, and for what.

use std::collections::HashMap;

use super::dialect::{field, fields};
use crate::data::check_unique;
use crate::data::files::text::Text;
use crate::data::files::{Categorical, Source, list, number};
use crate::error::{Error, Place, Result};

/// So many bytes are looked at for columns of text.
const LOOKED_AT: usize = 1 << 20;

/// What stands for a value that is missing, so that it does not make a column one of text.
const MISSING: [&str; 9] = ["", "?", "-", "NA", "N/A", "n/a", "na", "null", "NULL"];

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Nothing,
    /// The number with this index among those of a row.
    Number(usize),
    /// The category of this one-hot column.
    Category(usize),
    Label,
    Weight,
}

/// A column of text.
pub(super) struct OneHot {
    pub column: usize,
    /// The categories, where a model has them: no others are then allowed.
    pub known: Option<Vec<String>>,
}

/// What features are made of, in their order.
pub(super) enum Feature {
    /// A column.
    Number(usize),
    /// All categories of a one-hot column.
    Categories(usize),
    /// One category of a one-hot column, by its number.
    Category(usize, u32),
}

/// Which columns of a file are taken.
pub(super) struct Columns {
    /// Of all columns.
    pub names: Vec<String>,
    pub delimiter: u8,
    pub roles: Vec<Role>,
    pub features: Vec<Feature>,
    /// The names of the features, where they are given.
    pub wanted: Option<Vec<String>>,
    pub n_numbers: usize,
    pub one_hot: Vec<OneHot>,
    pub label: Option<usize>,
    pub weight: Option<usize>,
    /// Whether a category that a model does not know is allowed.
    pub ignore_unknown: bool,
}

impl Columns {
    pub fn choose(header: &[Vec<u8>], delimiter: u8, source: &Source, text: &mut Text) -> Result<Self> {
        let place = text.place();
        let malformed = |problem: String| Error::malformed(place.clone(), problem);
        let mut names: Vec<String> = Vec::new();
        let mut columns: HashMap<&str, usize> = HashMap::new();
        for index in 0..header.len() {
            let Ok(name) = std::str::from_utf8(field(header, index)) else {
                return Err(malformed(
                    "its header is not UTF-8 text; it must be CSV, svmlight, IDX or .npy".to_owned(),
                ));
            };
            if name.is_empty() {
                let advice = "name it in the header, or remove it if it only counts the rows";
                return Err(malformed(format!("column {} has no name; {advice}", index + 1)));
            }
            if let Some(other) = columns.insert(name, index) {
                return Err(malformed(format!("columns {} and {} are both called {name:?}", other + 1, index + 1)));
            }
            names.push(name.to_owned());
        }
        let find = |wanted: &str, role: &str| {
            columns.get(wanted).copied().ok_or_else(|| {
                let unknown = format!("it has no column {wanted:?}{role}; its columns are {}", list(&names));
                let is_one = names.len() == 1 && names[0].contains(['|', ' ', ':']);
                malformed(if is_one {
                    format!("{unknown} (commas, tabs or semicolons must separate them)")
                } else {
                    unknown
                })
            })
        };
        let label = match &source.label_column {
            Some(name) => Some(find(name, " for the labels")?),
            None => None,
        };
        let weight = match &source.weight_column {
            Some(name) => Some(find(name, " for the weights")?),
            None => None,
        };
        if let Some(column) = label.filter(|_| label == weight) {
            return Err(malformed(format!("column {:?} cannot have both the labels and the weights", names[column])));
        }
        let mut chosen = Self {
            delimiter,
            roles: vec![Role::Nothing; names.len()],
            features: Vec::new(),
            wanted: source.feature_names.clone(),
            n_numbers: 0,
            one_hot: Vec::new(),
            label,
            weight,
            ignore_unknown: source.ignore_unknown_categories,
            names: names.clone(),
        };
        for (column, role) in [(label, Role::Label), (weight, Role::Weight)] {
            if let Some(column) = column {
                chosen.roles[column] = role;
            }
        }
        let not_both = |column: usize| {
            let what = if label == Some(column) { "labels" } else { "weights" };
            malformed(format!("column {:?} has the {what}, so that it cannot be a feature", names[column]))
        };
        if let Some(wanted) = &source.feature_names {
            check_unique("feature", wanted)?;
            for name in wanted {
                let (column, category) = match columns.get(name.as_str()) {
                    Some(&column) => (column, None),
                    None => match one_hot_name(name, &columns) {
                        Some((column, category)) => (column, Some(category)),
                        None => (find(name, "")?, None),
                    },
                };
                if !chosen.add(column, category) {
                    return Err(not_both(column));
                }
            }
            return Ok(chosen);
        }
        let is_text = match &source.categorical {
            Categorical::None => vec![false; names.len()],
            Categorical::Auto => columns_of_text(text, names.len(), delimiter)?,
            Categorical::Columns(wanted) => {
                let mut is_text = vec![false; names.len()];
                for name in wanted {
                    let column = find(name, " of categories")?;
                    if chosen.roles[column] != Role::Nothing {
                        return Err(not_both(column));
                    }
                    is_text[column] = true;
                }
                is_text
            }
        };
        let taken = match &source.feature_columns {
            Some(wanted) => {
                check_unique("feature", wanted)?;
                wanted.iter().map(|name| find(name, "")).collect::<Result<_>>()?
            }
            None => {
                (0..names.len()).filter(|&column| matches!(chosen.roles[column], Role::Nothing)).collect::<Vec<_>>()
            }
        };
        for column in taken {
            if chosen.roles[column] != Role::Nothing {
                return Err(not_both(column));
            }
            if is_text[column] {
                chosen.features.push(Feature::Categories(chosen.one_hot.len()));
                chosen.roles[column] = Role::Category(chosen.one_hot.len());
                chosen.one_hot.push(OneHot { column, known: None });
            } else {
                chosen.add(column, None);
            }
        }
        Ok(chosen)
    }

    /// A further feature: a column of numbers, or one category of a column; whether the column can be that.
    fn add(&mut self, column: usize, category: Option<&str>) -> bool {
        match (self.roles[column], category) {
            (Role::Nothing, None) => {
                self.roles[column] = Role::Number(self.n_numbers);
                self.features.push(Feature::Number(column));
                self.n_numbers += 1;
            }
            (Role::Nothing, Some(_)) => {
                self.roles[column] = Role::Category(self.one_hot.len());
                self.one_hot.push(OneHot { column, known: Some(Vec::new()) });
                return self.add(column, category);
            }
            (Role::Category(index), Some(category)) => {
                let known = self.one_hot[index].known.get_or_insert_default();
                let number = known.len() as u32;
                known.push(category.to_owned());
                self.features.push(Feature::Category(index, number));
            }
            _ => return false,
        }
        true
    }

    /// The names of the features, when all are numbers.
    pub fn numbers_in_order(&self) -> Vec<String> {
        let name = |feature: &Feature| match feature {
            Feature::Number(column) => self.names.get(*column).cloned(),
            _ => None,
        };
        self.features.iter().filter_map(name).collect()
    }

    pub fn place(&self, place: Place, column: usize) -> Place {
        let place = place.at_column(column + 1);
        match self.names.get(column) {
            Some(name) => place.named(name),
            None => place,
        }
    }
}

/// The column and the category of a feature that is called `column=category`.
fn one_hot_name<'a>(name: &'a str, columns: &HashMap<&str, usize>) -> Option<(usize, &'a str)> {
    let is_column = |(at, _)| Some((*columns.get(&name[..at])?, &name[at + 1..]));
    name.match_indices('=').find_map(is_column)
}

/// Which columns have text where their first value is that is not missing.
fn columns_of_text(text: &mut Text, n_columns: usize, delimiter: u8) -> Result<Vec<bool>> {
    while text.buffer().len() < LOOKED_AT && text.more()? {}
    let mut is_text: Vec<Option<bool>> = vec![None; n_columns];
    let mut at = 0;
    while let Some((record, next)) = fields(text.buffer(), at, delimiter)
        && is_text.contains(&None)
    {
        for (column, is_text) in is_text.iter_mut().enumerate().filter(|_| record.len() == n_columns) {
            let field = field(&record, column);
            if is_text.is_none() && !MISSING.iter().any(|missing| missing.as_bytes() == field) {
                *is_text = Some(number::parse(field).is_none());
            }
        }
        at = next;
    }
    Ok(is_text.into_iter().map(|is_text| is_text == Some(true)).collect())
}
