//! What the pages have in common.
//!
//! Gives a style and a list; takes texts; trusts nothing in them; refuses nothing.

use super::html::Html;

/// Plain, and the same on paper.
pub const STYLE: &str = "\
:root{color-scheme:light}\
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:76em;padding:0 1em;color:#1a1a1a;background:#fff}\
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:1.6em}\
table{border-collapse:collapse;width:100%}\
th,td{border-bottom:1px solid #c8c8c8;padding:.3em .7em .3em 0;text-align:left;vertical-align:top}\
td.number,th.number{text-align:right}td.when{white-space:nowrap}\
table.facts th{width:11em;font-weight:600}\
td,code{overflow-wrap:anywhere}\
code{font:.86em ui-monospace,monospace}\
ul{margin:0;padding-left:1.1em}\
.verdict{font-weight:700;white-space:nowrap}\
.block .verdict{color:#9b1c10}.block{background:#fdecea}\
.review .verdict{color:#7a4d00}.review{background:#fff6df}\
.counts{font-size:1.15em}\
.aside{border-left:4px solid #888;padding:.2em 0 .2em 1em}\
@media print{body{margin:0;max-width:none;font-size:10pt;padding:0}\
thead{display:table-header-group}tr,li{break-inside:avoid}h2{break-after:avoid}\
.block,.review{print-color-adjust:exact;-webkit-print-color-adjust:exact}}";

/// Texts, one below the other.
pub fn list(page: &mut Html, texts: &[String]) {
    page.element("ul", |page| texts.iter().for_each(|text| page.say("li", text)));
}
