"""The classifiers of the survey, each a scikit-learn pipeline with what it is tuned over.

Scaling is a step of the pipeline and the choice of settings a cross-validation inside the training
folds: neither sees a test fold. Support vector machines give no probabilities; theirs are a sigmoid
of the decision value (Platt), fitted on training folds as well.
"""

from typing import Any, NamedTuple

from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier


class Known(NamedTuple):
    """A classifier: title, estimator, whether features are scaled, grid, and whether its scores are
    turned into probabilities.
    """

    title: str
    estimator: BaseEstimator
    scaled: bool
    grid: dict[str, list[Any]]
    platt: bool = False


CLASSIFIERS = {
    "knn": Known("k nearest neighbours", KNeighborsClassifier(), True, {"n_neighbors": [1, 5, 15]}),
    "naive_bayes": Known("naive Bayes (Gaussian)", GaussianNB(var_smoothing=1e-3), True, {}),
    "tree": Known(
        "decision tree", DecisionTreeClassifier(random_state=0), False,
        {"min_samples_leaf": [1, 5, 20]},
    ),
    "forest": Known(
        "random forest", RandomForestClassifier(200, random_state=0), False, {}
    ),
    "logistic": Known(
        "logistic regression", LogisticRegression(max_iter=2000), True, {"C": [0.01, 0.1, 1.0]}
    ),
    "svm_linear": Known("SVM, linear", SVC(kernel="linear"), True, {"C": [0.01, 0.1, 1.0]}, True),
    "svm_poly": Known(
        "SVM, polynomial", SVC(kernel="poly", degree=3, coef0=1.0), True,
        {"C": [0.1, 1.0, 10.0]}, True,
    ),
    "svm_rbf": Known("SVM, Gaussian", SVC(), True, {"C": [1.0, 10.0]}, True),
    "adaboost": Known(
        "boosting (AdaBoost, depth 3)",
        AdaBoostClassifier(DecisionTreeClassifier(max_depth=3, random_state=0), n_estimators=100,
                           random_state=0),
        False, {},
    ),
    "gradient_boosting": Known(
        "boosting (gradient, trees)",
        HistGradientBoostingClassifier(max_iter=60, random_state=0),
        False, {},
    ),
}  # fmt: skip


def make(known: Known, seed: int) -> Any:
    """Return the estimator to fit on training folds: scaled, tuned inside, with probabilities."""
    inner = StratifiedKFold(3, shuffle=True, random_state=seed)
    steps = [StandardScaler()] if known.scaled else []
    made: Any = make_pipeline(*steps, known.estimator)
    if known.grid:
        name = type(known.estimator).__name__.lower()
        made = GridSearchCV(made, {f"{name}__{k}": v for k, v in known.grid.items()}, cv=inner)
    if known.platt:
        made = CalibratedClassifierCV(made, cv=inner, ensemble=False)  # pyright: ignore[reportArgumentType]
    return made
