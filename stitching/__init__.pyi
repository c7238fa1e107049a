from .analysis.checks import failed_checks as failed_checks
from .analysis.formulas import (
    relative_accuracy as relative_accuracy,
)
from .analysis.formulas import (
    stitching_penalty as stitching_penalty,
)
from .analysis.formulas import (
    wilson_interval as wilson_interval,
)
from .analysis.load import (
    list_runs as list_runs,
)
from .analysis.load import (
    load_results as load_results,
)
from .analysis.load import (
    unfinished_runs as unfinished_runs,
)
from .analysis.notebooks import (
    notebook_folders as notebook_folders,
)
from .analysis.notebooks import (
    plot_or_explain as plot_or_explain,
)
from .analysis.notebooks import (
    self_stitch_check as self_stitch_check,
)
from .analysis.notebooks import (
    show as show,
)
from .analysis.plots.accuracy import (
    plot_accuracy_by_depth as plot_accuracy_by_depth,
)
from .analysis.plots.accuracy import (
    plot_accuracy_by_gap as plot_accuracy_by_gap,
)
from .analysis.plots.accuracy import (
    plot_accuracy_by_macs as plot_accuracy_by_macs,
)
from .analysis.plots.accuracy import (
    plot_accuracy_by_parameters as plot_accuracy_by_parameters,
)
from .analysis.plots.accuracy import (
    plot_accuracy_by_source_stage as plot_accuracy_by_source_stage,
)
from .analysis.plots.accuracy import (
    plot_agreement_by_gap as plot_agreement_by_gap,
)
from .analysis.plots.curves import (
    plot_learning_curves as plot_learning_curves,
)
from .analysis.plots.curves import (
    plot_setting as plot_setting,
)
from .analysis.plots.heatmaps import (
    plot_best_adapters as plot_best_adapters,
)
from .analysis.plots.heatmaps import (
    plot_depths as plot_depths,
)
from .analysis.plots.heatmaps import (
    plot_penalties as plot_penalties,
)
from .analysis.plots.heatmaps import (
    plot_progress as plot_progress,
)
from .analysis.plots.style import save_figure as save_figure
from .analysis.statistics import (
    best_adapters as best_adapters,
)
from .analysis.statistics import (
    best_by_validation as best_by_validation,
)
from .analysis.statistics import (
    best_settings as best_settings,
)
from .analysis.statistics import (
    controls as controls,
)
from .analysis.statistics import (
    last_epoch as last_epoch,
)
from .analysis.statistics import (
    stitched as stitched,
)
from .analysis.statistics import (
    summarize as summarize,
)
from .analysis.statistics import (
    varied_settings as varied_settings,
)
from .analysis.tables import (
    accuracy_table as accuracy_table,
)
from .analysis.tables import (
    add_measures as add_measures,
)
from .analysis.tables import (
    base_networks as base_networks,
)
from .analysis.tables import (
    grid_table as grid_table,
)
from .analysis.tables import (
    load_runs as load_runs,
)
from .config.errors import UserError as UserError
from .nets.python_api import (
    cut as cut,
)
from .nets.python_api import (
    cut_points as cut_points,
)
from .nets.python_api import (
    stitch as stitch,
)
from .runs.step_log import read_result as read_result
