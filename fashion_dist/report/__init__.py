"""Pages of runs, drawn from what their folders hold: `fashion-dist report RUN [RUN ...]`.

    run_data            what is written down about a run -> `RunData`; nothing is computed
    split_predictions   a split's predictions beside its truth, by key -> `SplitPredictions`
    scores              arithmetic over truth and predictions, as scikit-learn counts; intervals by the bootstrap
    blocks              what a page is made of: `Section`s of sentences, pictures, tables and image sheets
    figure_writer       draws one picture: PNG, SVG and CSV beside the page, SVG inside it, words for the blind
    run_sections, classes, attributes, outfits  sections of one run's page
    feature_analysis, feature_sections          what the network sees: computed and kept; drawn
    comparison, side_by_side, ablation          sections of a page of several runs
    page                sections -> one self-contained HTML file (template page.html); readable without a script
    views               which of these a task has, by its `report_views`
    make                which sections a page has, and in which order: read this file first
    table               runs as a Markdown table;  archive, load, pdf, notebook  what is handed in
    dataset_card, near_duplicates               the page of a shard set

A section opens with sentences drawn from the numbers it shows, and they say no more than the numbers do. Each way down
this list knows only what stands above it. What a run does not have (labels, predictions, best weights) is said in its
section's place; nothing is invented. Figures use Okabe & Ito's colours; in the page ink and paper follow the reader's
light or dark setting, the files beside it are on white.
"""
