"""How the page looks: light and dark, on wide and narrow screens, and on paper."""

STYLE = """
:root { --ink: #1c1e21; --soft: #5c6370; --paper: #ffffff; --line: #d9dce1; --shade: #f4f5f7; --link: #0b5cad;
  --notice: #fff4d6; --edge: #d99a00; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; margin: 0 0 .6rem; }
h1 { font-size: 1.8rem; } h2 { font-size: 1.3rem; } h3 { font-size: 1.1rem; }
p { margin: 0 0 .6rem; overflow-wrap: anywhere; }
a { color: var(--link); }
nav { margin-bottom: 1.5rem; }
section + section { margin-top: 3rem; border-top: 2px solid var(--line); padding-top: 1.5rem; }
figure { margin: 2.2rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: bottom; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { font-weight: 600; border-bottom: 2px solid var(--soft); }
.number { text-align: right; padding: .3rem 0 .3rem 1.2rem; }
.floor td { color: var(--soft); font-style: italic; }
img { display: block; width: 100%; max-width: 41rem; height: auto; }
figcaption { margin-top: .7rem; font-size: .9rem; color: var(--soft); }
figcaption p { margin: 0 0 .3rem; }
code { font: .88em/1.4 ui-monospace, monospace; background: var(--shade); padding: .1em .35em; border-radius: 3px;
  overflow-wrap: anywhere; }
.source code { display: inline-block; margin: 0 .4rem .2rem 0; }
.notice { background: var(--notice); border-left: 4px solid var(--edge); padding: .5rem .8rem; }
.setting { margin-top: 2.5rem; font-size: .9rem; }
.setting td { white-space: normal; overflow-wrap: anywhere; }
summary { cursor: pointer; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --soft: #a2a9b4; --paper: #171717; --line: #353a42; --shade: #24272d; --link: #7db7f0;
    --notice: #3a2f10; }
  img { filter: invert(.91) hue-rotate(180deg); }
}
@media (max-width: 30rem) {
  table { font-size: .85rem; } th, td { padding-right: .6rem; } .number { padding: .3rem 0 .3rem .6rem; }
}
@media print {
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  tr, figure:has(img) { break-inside: avoid; } figure { margin: 1.2rem 0; } img { max-width: 13cm; }
  h1, h2, h3 { break-after: avoid; } .wide { overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
