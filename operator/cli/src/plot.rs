//! Owns small plots of text; it must not know what is plotted.

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A plot of `(x, y)` points, `width` by `height` characters, with the extremes at the axis.
pub fn curve(points: &[(f64, f64)], width: usize, height: usize) -> Vec<String> {
    let finite: Vec<(f64, f64)> = points
        .iter()
        .copied()
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect();
    let (Some(first), Some(last)) = (finite.first(), finite.last()) else {
        return Vec::new();
    };
    let low = finite.iter().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
    let high = finite
        .iter()
        .map(|(_, y)| *y)
        .fold(f64::NEG_INFINITY, f64::max);
    let columns: Vec<f64> = (0..width)
        .map(|column| column_mean(&finite, first.0, last.0, column, width))
        .collect();
    let eighths = (height * LEVELS.len()) as f64;
    let filled = |y: f64| {
        if high > low {
            ((y - low) / (high - low) * (eighths - 1.0)).round() as usize + 1
        } else {
            1
        }
    };
    let mut lines = Vec::new();
    for row in (0..height).rev() {
        let label = if row == height - 1 {
            format!("{high:8.3} ")
        } else if row == 0 {
            format!("{low:8.3} ")
        } else {
            " ".repeat(9)
        };
        let cells: String = columns
            .iter()
            .map(|y| match filled(*y).saturating_sub(row * LEVELS.len()) {
                0 => ' ',
                n => LEVELS.get(n.min(LEVELS.len()) - 1).copied().unwrap_or('█'),
            })
            .collect();
        lines.push(format!("{label}{cells}"));
    }
    lines.push(format!(
        "{}{:<w$}{:>6}",
        " ".repeat(9),
        first.0,
        last.0,
        w = width.saturating_sub(6)
    ));
    lines
}

/// Mean of the points of a column; between points the line through its neighbours.
fn column_mean(points: &[(f64, f64)], from: f64, to: f64, column: usize, width: usize) -> f64 {
    let edge = |index: usize| from + (to - from) * index as f64 / width as f64;
    let (left, right) = (edge(column), edge(column + 1));
    let inside: Vec<f64> = points
        .iter()
        .filter(|(x, _)| *x >= left && (*x < right || column + 1 == width))
        .map(|(_, y)| *y)
        .collect();
    if !inside.is_empty() {
        return inside.iter().sum::<f64>() / inside.len() as f64;
    }
    let middle = (left + right) / 2.0;
    let before = points.iter().rev().find(|(x, _)| *x <= middle);
    let after = points.iter().find(|(x, _)| *x > middle);
    match (before, after) {
        (Some((x0, y0)), Some((x1, y1))) => y0 + (y1 - y0) * (middle - x0) / (x1 - x0),
        (Some((_, y)), None) | (None, Some((_, y))) => *y,
        (None, None) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_curve_falls() {
        let points: Vec<(f64, f64)> = (0..=100)
            .map(|x| (f64::from(x), 4.0 - f64::from(x) / 50.0))
            .collect();
        let lines = curve(&points, 40, 4);
        assert_eq!(lines.len(), 5);
        assert!(lines[0].starts_with("   4.000 █") && lines[0].ends_with(' '));
        assert!(lines[3].starts_with("   2.000 "));
        assert!(lines[3].chars().last().is_some_and(|c| LEVELS.contains(&c)));
        assert!(curve(&[], 10, 2).is_empty());
        assert_eq!(curve(&[(1.0, 2.0)], 10, 2).len(), 3);
    }
}
