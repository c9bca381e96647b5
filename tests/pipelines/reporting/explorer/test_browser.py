"""Tests of the explorer in Chromium: every view is drawn, by pointer and by keyboard, and hostile text stays text.

The page's text is tested without a browser in test_page.
"""

import io
from functools import cache
from urllib.parse import quote, unquote

import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from prunescope.pipelines.reporting.charts.registry import FIGURES
from prunescope.pipelines.reporting.explorer.index_document import COLUMNS
from prunescope.pipelines.reporting.explorer.page import render
from tests.pipelines.reporting.charts import frames
from tests.pipelines.reporting.explorer import sample
from tests.pipelines.reporting.explorer.browser_page import Reader, chromium

pytestmark = pytest.mark.chromium
WANDA, DROP, MAGNITUDE = (
    quote(f"{sample.MODEL}@{recipe}", safe="") for recipe in ("wanda-50", "attn-drop-4", "magnitude-50")
)


@pytest.fixture(scope="module")
def driver():
    with chromium() as started:
        yield started


STUDIES = {
    "usual": sample.documents,
    "hostile": sample.hostile,
    "figures": sample.with_every_figure,
    "numbers": sample.with_every_column,
    "counts": lambda: sample.with_every_column(count=60, whole=60),
    "long": sample.with_long_answers,
    "many": lambda: sample.documents(prompts=tuple(f"{kind}-{n}" for n in range(20) for kind in ("sky", "fruit"))),
    "kinds": sample.with_kinds,
    "search": sample.with_search,
}


@pytest.fixture(scope="module")
def url_of(tmp_path_factory):
    """Return a function that writes the page of a study when it is first opened."""
    folder = tmp_path_factory.mktemp("explorer")

    @cache
    def url_of(name):
        is_live = name == "live"
        documents = {"index": sample.documents()["index"]} if is_live else STUDIES[name]()
        path = folder / f"{name}.html"
        path.write_text(render(documents, live=is_live), encoding="utf-8")
        return path.as_uri()

    return url_of


@pytest.fixture(scope="module")
def opened(driver, url_of):
    """Return a function that shows a view of a study; the page is loaded unless it is open already."""
    reader = Reader(driver)
    current = {"name": None}

    def opened(name, path="/", width=1280):
        if current["name"] != name:
            reader.load(url_of(name))
            current["name"] = name
        reader.show(path, width)
        return reader

    return opened


@pytest.fixture
def visit(opened):
    """Return a function that shows a view of a study; no view may write to the console."""
    yield opened
    reader = opened("usual")
    reader.scheme("light")
    assert reader.complaints() == []


@pytest.fixture
def page(visit):
    """Open the usual study at its overview."""
    return visit("usual")


def heading(reader):
    return reader.text("main h1").split("\n")[0]


def follow(reader, link):
    reader.click(link)
    reader.wait_for_view()


def texts(place, selector):
    return [one.text for one in place.find_elements(By.CSS_SELECTOR, selector)]


def each(reader, selector, value):
    """Return a JavaScript value of every element `one` that the selector names."""
    return reader.js(f"return [...document.querySelectorAll(arguments[0])].map((one) => {value})", selector)


CURVES = ("space-h", "space-z", "space-p", "kl")


def marks_of(chart, curve):
    """Return the number of marks of a curve; they are pieces of one path."""
    return sum(path.get_attribute("d").count("M") for path in chart.find_elements(By.CSS_SELECTOR, f".{curve} .marks"))


def cells(reader, label):
    """Return the texts of a table's cells."""
    return each(reader, f"[aria-label='{label}'] tbody tr", "[...one.cells].map((cell) => cell.innerText)")


def rows(reader, label):
    return [row[0] for row in cells(reader, label)]


def more(reader, text):
    reader.click(next(button for button in reader.all("button.more") if button.text == text))


def test_the_overview_opens_with_curves_and_scores_with_intervals(page):
    shown = each(page, ".opening .curve", "one.getAttribute('d')")
    variants = len(sample.documents()["index"]["curves"])
    assert len(shown) == 8 * variants
    # Four pairs of panels. The first token's 0 lies on the edge; a missing value leaves a gap.
    assert all(path.count("M") == (1 if place // variants % 2 else 2) for place, path in enumerate(shown))
    cut = (
        "return [...document.querySelectorAll('.opening svg')].flatMap((one) => [...one.querySelectorAll('text')]"
        ".filter((text) => text.getBBox().x < 0 || text.getBBox().x + text.getBBox().width > one.viewBox.baseVal.width"
        " || one.getBoundingClientRect().right > innerWidth).map((text) => text.textContent))"
    )
    for width in (390, 1280):
        page.show("/", width)
        assert page.js(cut) == []
    cell = page.one("[aria-label='variants'] tbody tr:nth-child(2) [data-column='kl']").text.split("\n")
    assert cell == ["1.5", "[0.75, 3]"]
    assert not page.all(".example")  # no variant has a KL to be nearest by


def test_the_overview_has_texts_of_the_nearest_and_the_furthest_and_a_menu_of_the_statements_of_several_columns(visit):
    reader = visit("numbers")
    reader.wait(lambda: len(reader.all(".example .text")) == 3)
    names = texts(reader.driver, ".example h4")
    assert (names[0], len(set(names))) == ("dense", 3)
    menu = reader.one(".headed .menu")
    assert not menu.find_element(By.TAG_NAME, "a").is_displayed()
    reader.click(menu.find_element(By.TAG_NAME, "summary"))
    assert any("removed" in text for text in texts(menu, "a"))


def test_clicks_lead_from_the_overview_to_a_variant_a_token_and_its_layers(page):
    follow(page, page.one("[aria-label='variants'] tbody tr:nth-child(2) a"))
    assert "wanda-50" in heading(page)
    follow(page, page.one(".prompt h3 a"))
    assert "Step 4" in page.text(".detail")  # where the texts part
    page.click(page.one(".side:nth-child(2) .tok[data-at='2']"))
    assert page.js("return document.activeElement.closest('.side h2 + .stream').ariaLabel").endswith("pruned text")
    assert all(part in page.text(".detail") for part in ("Step 2", "Layers, propagated", "Layers, local"))
    marks = [sum(marks_of(chart, kind) for kind in CURVES) for chart in page.all(".detail svg.curves")]
    assert marks == [3 * len(sample.PLACES), len(sample.PLACES)] * 2
    assert page.driver.current_url.endswith(f"#/tokens/{WANDA}/sky/2")


def test_the_keyboard_reaches_the_same_views(page):
    page.js("document.querySelector(\"[aria-label='variants'] tbody tr:nth-child(2) a\").focus()")
    page.press(Keys.ENTER)
    page.wait(lambda: "wanda-50" in heading(page))
    assert page.js("return document.activeElement.tagName") == "H1"  # so that Tab goes on from the new view
    for _ in range(40):
        page.press(Keys.TAB)
        if "token by token" in page.driver.switch_to.active_element.text:
            break
    page.press(Keys.ENTER)
    page.wait(lambda: page.all(".stream"))
    for _ in range(40):
        page.press(Keys.TAB)
        if page.js("return document.activeElement.classList.contains('tok')"):
            break
    assert page.js("return document.activeElement.dataset.at") == "4"
    page.press(Keys.ARROW_LEFT)
    assert "Step 3" in page.text(".detail h2")
    page.press(Keys.HOME)
    assert "Step 0" in page.text(".detail h2")
    page.press(Keys.ARROW_DOWN)  # past the line break, which is step 2
    assert "Step 3" in page.text(".detail h2")
    page.press(Keys.ARROW_UP)  # to the token above, as step 3 has a flag before it
    assert "Step 2" in page.text(".detail h2")
    page.press(Keys.END, Keys.ARROW_RIGHT)  # there is nothing after the end
    assert "Step 5" in page.text(".detail h2")
    assert page.js("return document.activeElement.getAttribute('aria-selected')") == "true"


def test_the_skip_link_leads_into_the_view_and_keeps_its_address(page):
    page.show(f"/variant/{WANDA}")
    page.js("scrollTo(0, document.body.scrollHeight); document.querySelector('#skip').focus()")
    page.press(Keys.ENTER)
    assert page.js("return document.activeElement.tagName") == "H1"
    assert 0 < page.js("return document.activeElement.getBoundingClientRect().top") < 900
    assert "wanda-50" in heading(page)
    assert page.driver.current_url.endswith(f"#/variant/{WANDA}")


@pytest.mark.parametrize(("step", "selected"), [("3", "3"), *((bad, "0") for bad in ("999", "-1", "x", ""))], ids=repr)
def test_one_existing_token_of_each_text_is_selected_and_focusable(page, step, selected):
    page.show(f"/tokens/{WANDA}/sky/{step}")
    assert f"Step {selected}" in page.text(".detail h2")
    for side in (1, 2):
        for state in ("[aria-selected='true']", "[tabindex='0']"):
            assert each(page, f".side:nth-child({side}) .tok{state}", "one.dataset.at") == [selected]


def test_the_layer_map_starts_at_the_bottom_and_selects_steps(page):
    page.show(f"/tokens/{WANDA}/sky/0")
    pixels = page.js(
        "const canvas = document.querySelector('canvas');"
        "return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    )
    alpha = pixels[3::4]
    assert len(alpha) == len(sample.PLACES) * sample.STEPS
    # KL is 1e-7 after the first sublayer, and after the last 0.01 at step 0 and 0.06, the largest, at step 5.
    assert (alpha[-sample.STEPS], alpha[0], alpha[5]) == (0, 104, 255)  # 255 √(KL/0.06)
    assert "0.06 nats" in page.text(".map p")
    assert each(page, ".labels bdi", "one.textContent") == ["␣The", "␣sky", "↵", "␣is", "␣blue", "."]
    assert "highest 0.06 nats after 2 mlp at step 5" in page.one("canvas").get_attribute("aria-label")
    canvas = page.one("canvas")
    page.js("arguments[0].scrollIntoView({block: 'center'})", canvas)
    right_of_the_middle = int(canvas.size["width"] / 12)
    ActionChains(page.driver).move_to_element_with_offset(canvas, right_of_the_middle, 0).click().perform()
    assert "Step 3" in page.text(".detail h2")
    assert page.one(".cursor").get_attribute("style").startswith("left: 50%")
    assert page.driver.current_url.endswith("/3")


def test_events_link_to_their_steps_whose_tokens_have_probabilities_on_both_sides(page):
    page.show(f"/tokens/{WANDA}/sky/0")
    follow(page, next(link for link in page.all("main p a") if link.text == "step 5"))
    assert page.driver.current_url.endswith("/sky/5/own")
    assert "Step 5" in page.text(".detail h2")
    assert [bars.split("\n") for bars in texts(page.driver, ".detail .bars")[:2]] == [
        [".", "75.0 %", "12.5 %"],
        ["␣red", "12.5 %", "50.0 %", "z", "0.0 %", "<0.1 %"],
    ]
    assert each(page, ".detail .bars .fill", "one.style.width")[:2] == ["75%", "12.5%"]


def test_colours_and_text_follow_the_chosen_measure(page):
    page.show(f"/tokens/{WANDA}/sky/0")

    def heats(side):
        return each(page, f".side:nth-child({side}) .tok", "Number(one.style.getPropertyValue('--heat'))")

    def flags():
        return [texts(side, ".flag") for side in page.all(".side")]

    kl = heats(1)
    assert kl[0] == 0  # not measured
    assert kl == sorted(kl)
    assert kl[4:] == [0.316, 1]  # √(KL/1 nat)
    assert "KL: 0 1 nats" in " ".join(page.text(".legend").split())
    page.click(page.one("[data-key='entropy']"))
    assert (set(heats(1)), set(heats(2))) == ({0.083}, {0.5})
    page.click(page.one("[data-key='agreement']"))
    assert heats(1) == [0, 0, 0, 0, 0.8, 0.8]
    page.click(page.one("[data-key='kl']"))
    assert each(page, ".side:nth-child(2) .tok", "one.ariaLabel")[3:5] == [
        "3: ␣is, answer ends",
        "4: ␣red, differs, first flip",
    ]
    assert flags() == [["answer ends", "first flip"], ["answer ends", "first flip"]]
    page.click(page.one("[data-key='own']"))
    assert flags() == [["first flip", "answer ends"], ["first flip", "answer ends", "loop"]]


def test_every_view_has_an_address_and_back_works(page):
    page.show(f"/compare/{WANDA}/{DROP}")
    assert each(page, "main select", "one.value") == ["tiny@wanda-50", "tiny@attn-drop-4"]
    page.show(f"/tokens/{DROP}/fruit/1/own")
    assert "fruit" in heading(page)
    assert page.one("[data-key='own']").get_attribute("aria-pressed") == "true"
    for path in ("/sql/figures%2Ftokens", "/sql/figures/tokens"):
        page.show(path)
        assert "select *" in page.text("pre")
    page.driver.back()
    page.driver.back()
    page.wait(lambda: "fruit" in heading(page))
    page.driver.back()
    page.wait(lambda: heading(page) == "Compare")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/variant/other", "no variant “other”"),
        (f"/tokens/{WANDA}/other/1", "no prompt “other”"),
        (f"/tokens/{MAGNITUDE}/sky/1", "prunescope serve"),
        ("/figures/other", "no figure “other”"),
        ("/sql/toString", "No statement"),
        ("/__proto__", "no page"),
        ("/constructor/x", "no page"),
        ("/variant/%E0%A4%A", "no variant"),
    ],
)
def test_an_unknown_address_shows_a_message(page, path, says):
    page.show(path)
    assert says in page.text()


def test_answers_of_over_a_hundred_thousand_steps_are_shown(visit):
    reader = visit("long")
    assert rows(reader, "variants")[0] == "dense"
    wanted = "KL by step: forced ends at 2, own text at 2 nats"
    assert reader.one("svg.spark").get_attribute("aria-label") == wanted


def test_sorting_keeps_missing_values_last_in_both_directions(page):
    for order in (["dense", "attn-drop-4", "wanda-50"], ["wanda-50", "attn-drop-4", "dense"]):
        page.click(page.one("[aria-label='variants'] [data-column='kl'] button"))
        assert rows(page, "variants") == [*order, "magnitude-50"]
    assert page.one("[aria-label='variants'] [data-column='kl']").get_attribute("aria-sort") == "descending"


def test_the_filter_ignores_case(page):
    page.press("/")
    page.press("WANDA-5")
    assert rows(page, "variants") == ["wanda-50"]
    assert "1 of 4 rows" in page.text()
    page.press("x")
    assert rows(page, "variants") == []
    page.press(*[Keys.BACKSPACE] * 8)
    assert len(rows(page, "variants")) == 4


def test_a_long_table_shows_its_first_rows_until_expanded(page):
    assert len(rows(page, "claims by model")) == 1
    assert len(rows(page, "claims")) == 8
    more(page, "All 15 rows")
    assert len(rows(page, "claims")) == 15
    assert page.js("return document.activeElement.rowIndex") == 9  # below eight and the headings


def test_the_button_counts_the_filtered_rows_and_focus_moves_to_the_first_that_it_adds(visit):
    reader = visit("many")
    reader.one("[aria-label='Filter: prompts']").send_keys("sky")
    more(reader, "All 20 rows")
    assert rows(reader, "prompts") == [f"sky-{n}" for n in range(20)]
    assert reader.js("return document.activeElement.cells[0].innerText") == "sky-12"
    reader.show(f"/variant/{WANDA}")
    more(reader, "All 40 prompts")
    assert len(reader.all(".prompt")) == 40
    assert reader.js("return document.activeElement.innerText").startswith("sky-3")  # the seventh


def test_prompts_are_narrowed_by_kind_and_one_leads_to_its_variants_and_their_tokens(visit):
    reader = visit("kinds")
    assert rows(reader, "texts by kind of prompt") == ["dense", "wanda-50", "attn-drop-4", "magnitude-50"]
    right = texts(reader.driver, "[aria-label='texts by kind of prompt'] tbody [data-column='prompts_correct']")
    assert right[0] == "10/10 30 to 100 %"
    assert rows(reader, "prompts")[0] == "p9"  # what breaks first
    reader.one("[aria-label='kind of prompt: prompts'] option[value='open']").click()
    assert rows(reader, "prompts") == ["p8", "p6", "p4", "p2", "p0"]
    follow(reader, next(link for link in reader.all("[aria-label='prompts'] a") if link.text == "p6"))
    assert "Measured at the output only" in reader.text("main")
    assert len(rows(reader, "variants of this prompt")) == 3
    follow(reader, reader.one("[aria-label='variants of this prompt'] [data-column='tokens'] a"))
    assert "it has no layers. With layers: p1" in reader.text("main")


@pytest.mark.parametrize(("width", "element"), [(1280, "TH"), (390, "TD")])
def test_detail_columns_show_on_request_with_the_focus_and_parts_beside_wholes(page, width, element):
    headings = page.text("[aria-label='variants'] thead")
    assert "same top token, %" in headings
    assert "looped" not in headings
    page.width(width)
    more(page, "All columns")
    focused = page.js("return [document.activeElement.tagName, document.activeElement.dataset.column]")
    assert focused == [element, "looped"]
    looped = each(page, "[aria-label='variants'] tbody [data-column='looped']", "one.textContent")
    assert sorted(looped) == ["0/2", "0/2", "1/2", "1/2"]
    page.show("/licences")  # and leave the table as it was


PAIRED = "Two variants on the same samples of tasks"


def test_two_variants_are_shown_side_by_side_with_their_difference_and_paired_statistics(page):
    page.show(f"/compare/{WANDA}/{DROP}")
    assert cells(page, "numbers of both") == [
        ["KL", "1.5", "0.25", "−1.25"],
        ["same top token, %", "40.0", "80.0", "+40.0"],
        ["looped", "1/2", "0/2", "−1"],
    ]
    assert "For the uncertainty of these differences" in page.text()  # nothing here is better on one side
    assert [row[4] for row in cells(page, PAIRED)] == ["0.25", "◆ 0.25"]
    assert "◆ The interval of this row excludes 0" in page.text(".paired")
    # Paired statistics have the order of the overview, and their SQL names both variants.
    for path in (f"/compare/{WANDA}/{DROP}", f"/compare/{DROP}/{WANDA}"):
        page.show(path)
        first, *_ = cells(page, PAIRED)
        assert first == ["accuracy", "task wanda-50", "0.5", "0.75", "0.25", "−0.125", "0.625", "3", "5"]
    follow(page, page.one(".paired a.sql"))
    assert page.text("pre").endswith(
        "where model = 'tiny' and pair in [{'a': 'wanda-50', 'b': 'attn-drop-4'}] "
        "and one in ['wanda-50', 'attn-drop-4']::varchar[]"
    )


def test_a_pair_without_paired_statistics_names_what_to_choose_or_the_command_and_the_figure(page):
    page.show(f"/compare/{WANDA}/{WANDA}")
    assert "Choose two different variants" in page.text(".paired")
    page.show(f"/compare/{WANDA}/{MAGNITUDE}")
    assert f"prunescope compare {unquote(WANDA)} {unquote(MAGNITUDE)} prints these statistics" in page.text(".paired")
    assert page.one(".paired a").get_attribute("href").endswith("#/figures/flip_matrix")


def test_curves_omit_what_a_logarithmic_axis_cannot_show_and_arrow_keys_read_their_values(page):
    page.show(f"/variant/{WANDA}")
    chart = page.all("svg.curves")[0]
    known = len(sample.PLACES) - 1  # the first place was not measured; z is exactly 0 everywhere
    assert [marks_of(chart, space) for space in CURVES[:3]] == [known, 0, known]
    assert "h from" in chart.get_attribute("aria-label")
    page.js("arguments[0].focus()", chart)

    def readout(*keys):
        for key in keys:
            ActionChains(page.driver).send_keys(key).perform()
        return page.text(".small .readout")

    assert readout() == ""
    assert readout(Keys.ARROW_RIGHT) == "0 attn (changed): h – · p 0.3"
    assert readout(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT) == "1 attn (changed): h 3.0e-4 · p 0.003"
    assert page.one("svg.curves .hair").get_attribute("d")
    assert readout(Keys.END, Keys.ARROW_RIGHT, Keys.ARROW_LEFT) == "2 attn (changed): h 0.03 · p 3.0e-5"
    assert readout(Keys.HOME, Keys.ARROW_LEFT) == "0 attn (changed): h – · p 0.3"
    assert page.one(".small .readout").get_attribute("aria-live") == "polite"
    assert readout(Keys.TAB) == ""


def test_every_statement_links_to_its_sql_and_one_page_lists_them(page):
    links = each(page, "a.sql", "one.getAttribute('href')")
    assert {"#/sql/verdicts/model%3Dtiny", "#/sql/all/model%3Dtiny", "#/sql/all"} <= set(links)
    follow(page, page.one(".answers a.sql"))
    assert heading(page) == "Rows of verdicts"
    assert page.text("pre").endswith("from verdicts  -- </script>\n) where model = 'tiny'")
    follow(page, next(link for link in page.all("main p a") if link.text == "All rows"))
    assert page.text("pre").endswith("from verdicts  -- </script>")
    page.show("/sql")
    listed = each(page, "main details a", "one.getAttribute('href')")
    assert sorted(listed) == sorted(f"#/sql/{quote(key, safe='')}" for key in sample.documents()["sql"])


def test_filters_are_escaped_as_literals(page):
    page.show("/sql/all/model=it's $1%2F/other=x")
    assert page.text("pre").endswith(") where model = 'it''s $1/'")  # its rows may be chosen by the model alone
    page.show("/sql/compare%2Ftasks/" + quote('$1="a\'$3"', safe="") + "/" + quote('$3=["x"]', safe=""))
    assert page.text("pre").endswith("where model = 'a''$3' and pair in $2 and one in ['x']::varchar[]")


def test_query_results_show_all_digits(visit):
    reader = visit("live")
    # The page itself simulates a server that answers with these numbers and texts.
    answer = {
        "columns": [{"name": name, "type": ""} for name in ("share", "count", "text, or none")],
        "rows": [[0.99987, 12345678, 'a "b",\nc'], [-1234.5678901234567, 0, ""], [1e-7, "9007199254740993", None]],
        "truncated": False,
        "seconds": 0.1,
    }
    reader.js("window.fetch = async (url) => new Response(JSON.stringify(url === 'sql' ? arguments[0] : {}));", answer)
    reader.show("/sql")
    reader.click(reader.one("button.run"))
    reader.wait(lambda: reader.all(".result table"))
    assert [row[:2] for row in cells(reader, "rows")] == [
        ["0.99987", "12345678"],
        ["-1234.5678901234567", "0"],
        ["1e-7", "9007199254740993"],
    ]


def test_without_clipboard_access_a_statement_is_selected(page):
    page.show("/sql/all")
    page.js("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    page.click(page.one(".code button"))
    page.wait(lambda: page.js("return getSelection().toString()") == page.text("pre"))
    page.js("delete navigator.clipboard")


def test_tables_of_statements_show_six_digits(page):
    page.show(f"/variant/{WANDA}")
    assert cells(page, "Tasks") == [["tiny@wanda-50", "0.987654"], ["x", "1,234.56"], ["y", "1.23456e-7"], ["z", "–"]]


@pytest.mark.parametrize("name", ["usual", "hostile"])
def test_every_figure_is_drawn_under_the_policy_in_light_and_dark(visit, name):
    reader = visit(name, "/figures/tokens")
    marks = ".chart[data-drawn] svg [aria-roledescription$='mark']"
    reader.wait(lambda: reader.all(marks))
    words = each(reader, ".chart svg text", "one.textContent")
    assert any(("␣" if name == "usual" else "⟨202E⟩") in word for word in words)
    assert reader.one(".chart").get_attribute("aria-label").endswith(". alt")
    for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(27, 29, 33)")):
        reader.scheme(scheme)
        reader.wait(lambda c=colour: each(reader, ".chart svg", "getComputedStyle(one).backgroundColor") == [c])
    reader.show("/figures")
    reader.js("scrollTo(0, document.body.scrollHeight)")
    reader.wait(lambda: each(reader, ".picture img", "one.complete && one.naturalWidth") == [40, 40])
    reader.click(reader.one(".picture"))
    reader.wait(lambda: reader.all(".chart[data-drawn]"))


def test_a_search_shows_its_results_its_allocation_and_both_figures_and_others_have_no_section(visit):
    assert not visit("usual").all("section.search")
    reader = visit("search")
    results = [text.split(".")[0] for text in texts(reader.driver, "section.search li")]
    assert results == ["Result 1 removes weights", "Result 2 removes weights"]
    for summary in reader.all("section.search summary"):
        summary.click()
    of_matrices, of_sublayers = texts(reader.driver, "section.search table")
    assert "q_proj" in of_matrices
    assert "attn.0 mlp.0" in of_sublayers
    reader.js("document.querySelector('section.search').scrollIntoView(false)")
    reader.wait(lambda: len(reader.all("section.search .chart[data-drawn]")) == 2)


# test_console.py draws every figure in a browser, and
# test_every_figure_is_drawn_under_the_policy_in_light_and_dark those of a study on this page.
@pytest.mark.exhaustive
def test_every_available_figure_has_marks_under_the_policy(visit):
    reader, drawn = visit("figures"), {}
    for name in FIGURES:
        reader.show(f"/figures/{name}")
        reader.wait(lambda: reader.all(".chart[data-drawn], main .failed"))
        drawn[name] = len(each(reader, "svg .role-mark:not(.mark-group) > [d]", "0"))
    assert [name for name, marks in drawn.items() if marks == 0] == []


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        *((1280, "light"), (390, "dark")),
        *(pytest.param(*given, marks=pytest.mark.exhaustive) for given in ((1280, "dark"), (390, "light"))),
    ],
)
def test_screenshots_have_the_windows_size_and_the_schemes_background(page, width, scheme):
    page.scheme(scheme)
    for path in ("/", f"/variant/{WANDA}", f"/tokens/{WANDA}/sky/4"):
        page.show(path, width)
        with Image.open(io.BytesIO(page.driver.get_screenshot_as_png())) as picture:
            assert picture.size == (width, 900)
            count, ground = max(picture.convert("L").getcolors())
        assert (ground > 200) == (scheme == "light"), path
        assert 0.02 < 1 - count / (width * 900) < 0.9, path  # neither blank nor a single block


def test_the_theme_follows_the_system_until_the_button_changes_it(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    page.scheme("light")
    light = page.js(ground)
    button = page.one("#theme")
    button.click()
    dark = page.js(ground)
    assert dark != light
    assert button.get_attribute("aria-label") == "Theme: dark"
    button.click()
    assert page.js(ground) == light
    for scheme, shown in (("dark", dark), ("light", light)):
        page.scheme(scheme)
        page.wait(lambda shown=shown: page.js(ground) == shown)


def test_a_key_opens_help_and_escape_closes_it(page):
    page.js("document.activeElement.blur()")
    page.press("?")
    assert page.one("dialog").is_displayed()
    page.press(Keys.ESCAPE)
    assert not page.one("dialog").is_displayed()


@pytest.mark.parametrize("width", [1280, 390])
def test_no_view_of_the_hostile_study_scrolls_sideways_or_logs_errors(visit, width):
    ids = [quote(f"{frames.HOSTILE[0]}@{recipe}", safe="") for recipe in ("__proto__", frames.HOSTILE[1], "a/b%2F?#c")]
    prompt = quote(frames.HOSTILE[0], safe="")
    for path in (
        *("/", "/sql", "/sql/all", "/licences", f"/compare/{ids[0]}/{ids[1]}"),
        *(f"/variant/{one}" for one in ids),
        *(f"/tokens/{ids[2]}/{prompt}/5", f"/tokens/{ids[0]}/constructor/7/own"),
    ):
        reader = visit("hostile", path, width)
        assert reader.text("main h1") != "Not found", path
        each(reader, "details", "(one.open = true)")
        assert all(each(reader, ".cards", "one.scrollWidth <= one.clientWidth")), path
        assert reader.js("return document.documentElement.scrollWidth") <= width, path


UNITS = ("KL by step, nats", "KL, step 0, nats", "KL, forced, nats", "KL, own text, nats", "first flip, step")


def test_headings_of_the_overview_have_units_and_its_columns_fit_the_window(visit):
    reader = visit("counts")
    headings = texts(reader.driver, "[aria-label='variants'] thead th")
    assert len(headings) == 15
    assert [unit for unit in UNITS if not any(heading.startswith(unit) for heading in headings)] == []
    assert each(reader, ".cards", "one.scrollWidth <= one.clientWidth")[0]


@pytest.mark.parametrize("width", [1280, 390])
def test_units_follow_the_numbers_of_a_variant_also_on_a_phone(visit, width):
    reader = visit("counts", f"/variant/{WANDA}", width)
    assert set(UNITS[1:]) <= set(texts(reader.driver, ".numbers span"))
    reader.show(f"/tokens/{WANDA}/sky/1", width)
    assert {"KL, nats", "entropy dense, nats", "margin pruned, logits"} <= set(texts(reader.driver, ".numbers span"))
    reader.show("/", width)
    cell = "[aria-label=variants] td[data-column=kl_step0_nats]"
    before = each(reader, cell, "getComputedStyle(one, '::before').content")[0]
    assert (before == "attr(data-heading)" or "KL, step 0, nats" in before) == (width == 390)


def test_a_number_of_a_variant_has_its_interval_beside_it(page):
    page.show(f"/variant/{WANDA}")
    [tile] = [text for text in texts(page.driver, ".numbers > div") if "[" in text]
    assert tile.split("\n")[-1].endswith("[0.75, 3]")


def test_two_variants_with_full_names_fit_a_phone(visit):
    reader = visit("numbers", f"/compare/{WANDA}/{DROP}", 390)
    assert len(rows(reader, "numbers of both")) == len(COLUMNS)
    table = "[aria-label='numbers of both']"
    assert not any(each(reader, f"{table}, {table} th", "one.scrollWidth > one.clientWidth"))


def test_hostile_text_is_displayed_and_not_executed(visit):
    reader = visit("hostile")
    assert "PWNED" not in reader.driver.title.replace(frames.HOSTILE[0][:40], "")
    assert frames.HOSTILE[0] in reader.text("main h1")
    assert reader.all("main script, main style") == []
    # The only images are those of the two figures, from the page's own data.
    shown = each(reader, "main img", "[one.parentElement.dataset.picture, one.src]")
    assert [figure for figure, _ in shown] == ["tokens", "hierarchy"]
    assert all(source == "" or source.startswith("data:image/jpeg;base64,/9j/") for _, source in shown)
    assert "__proto__" in rows(reader, "variants")
    assert reader.js("return ({}).polluted === undefined && Object.keys(Object.prototype).length === 0")
    word = quote(f"{frames.HOSTILE[0]}@__proto__", safe="")
    reader.show(f"/tokens/{word}/constructor/4")
    tokens = texts(reader.driver, ".side:nth-child(2) .tok")
    assert frames.HOSTILE[0][:30] in tokens[4]
    assert all(any(sign in token for token in tokens) for sign in ("⟨202E⟩", "\ufffd"))
    assert all(len(token) <= 40 for token in tokens)


def test_the_policy_forbids_foreign_scripts_eval_styles_and_the_network(page):
    assert page.js(
        """const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
        const styled = document.createElement("p");
        styled.setAttribute("style", "color: red");
        document.body.append(styled);
        const handled = document.createElement("p");
        handled.setAttribute("onclick", "window.ran = true");
        document.body.append(handled);
        handled.click();
        setTimeout("window.ran = true", 0);
        const isRed = getComputedStyle(styled).color === "rgb(255, 0, 0)";
        script.remove(); styled.remove(); handled.remove();
        return [window.ran ?? "refused", isRed];"""
    ) == ["refused", False]
    loaded = page.driver.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('loaded'), () => done('refused'));"
    )
    assert loaded == "refused"
    assert page.js("return window.ran === undefined")
    said = " ".join(entry["message"] for entry in page.complaints())
    refused = ("inline script", "inline style", "inline event handler", "as JavaScript", "127.0.0.1:9")
    assert all(word in said for word in refused)
