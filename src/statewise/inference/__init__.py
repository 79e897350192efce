"""Filters, smoothers and learning for state-space models with noise.

A method is (init, prepare, combine, associative); one engine runs it step by step, in parallel
over time, or online.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach

if TYPE_CHECKING:
    from statewise.inference.emissions import (
        CategoricalEmission,
        Emission,
        GaussianEmission,
        PoissonEmission,
    )
    from statewise.inference.engine import Filter, FilterResult, filter, log_likelihood
    from statewise.inference.ensemble import EnsembleKalman, Localisation
    from statewise.inference.expectation import EMResult, expectation_maximisation
    from statewise.inference.gaussian import GaussianFilter
    from statewise.inference.hidden_markov import HiddenMarkov
    from statewise.inference.iterated import IteratedSmoothing, smooth_iterated
    from statewise.inference.likelihood import LikelihoodFit, Unconstrained, maximise_likelihood
    from statewise.inference.linear_gaussian import LinearGaussian, Problem
    from statewise.inference.markov_chain import (
        Chain,
        Decoded,
        Forward,
        MarkovResult,
        MarkovSmoothed,
        ParallelForward,
    )
    from statewise.inference.markov_learning import BaumWelchResult, baum_welch
    from statewise.inference.methods import InformationKalman, Kalman, Method, SquareRootKalman
    from statewise.inference.moments import Moments
    from statewise.inference.noisy_layer import with_noise
    from statewise.inference.nonlinear_gaussian import NonlinearGaussian
    from statewise.inference.parallel import ParallelKalman, associative_scan
    from statewise.inference.particle import (
        Auxiliary,
        Bootstrap,
        Guided,
        ParticleResult,
        StateSpaceModel,
        particle_filter,
    )
    from statewise.inference.particle_smoother import sample_paths, smooth_particles
    from statewise.inference.regressions import (
        BernoulliGLM,
        CallableEmission,
        DrivenTransition,
        PoissonGLM,
    )
    from statewise.inference.resampling import (
        Multinomial,
        Resampling,
        Residual,
        Stratified,
        Systematic,
    )
    from statewise.inference.rules import (
        Cubature,
        FirstOrder,
        GaussHermite,
        PointRule,
        Rule,
        Unscented,
    )
    from statewise.inference.smoother import SmootherResult, sample_states, smooth, smooth_lagged
    from statewise.inference.steady import SteadyState, steady_state
    from statewise.inference.structural import (
        add,
        autoregressive,
        factors,
        local_level,
        local_linear_trend,
        seasonal,
    )
    from statewise.inference.switching_glm import (
        CouplingPrior,
        FreeCouplings,
        GaussianCouplings,
        OneHotCouplings,
        SwitchingGLM,
        exponential_basis,
        fit_switching_glm,
    )

_LAZY = {
    "Auxiliary": "particle",
    "BaumWelchResult": "markov_learning",
    "BernoulliGLM": "regressions",
    "Bootstrap": "particle",
    "CallableEmission": "regressions",
    "CategoricalEmission": "emissions",
    "Chain": "markov_chain",
    "CouplingPrior": "switching_glm",
    "Cubature": "rules",
    "Decoded": "markov_chain",
    "DrivenTransition": "regressions",
    "EMResult": "expectation",
    "Emission": "emissions",
    "EnsembleKalman": "ensemble",
    "Filter": "engine",
    "Localisation": "ensemble",
    "FilterResult": "engine",
    "FirstOrder": "rules",
    "Forward": "markov_chain",
    "FreeCouplings": "switching_glm",
    "GaussHermite": "rules",
    "GaussianCouplings": "switching_glm",
    "GaussianEmission": "emissions",
    "GaussianFilter": "gaussian",
    "Guided": "particle",
    "HiddenMarkov": "hidden_markov",
    "InformationKalman": "methods",
    "IteratedSmoothing": "iterated",
    "Kalman": "methods",
    "LikelihoodFit": "likelihood",
    "LinearGaussian": "linear_gaussian",
    "MarkovResult": "markov_chain",
    "MarkovSmoothed": "markov_chain",
    "Method": "methods",
    "Moments": "moments",
    "Multinomial": "resampling",
    "NonlinearGaussian": "nonlinear_gaussian",
    "OneHotCouplings": "switching_glm",
    "ParallelForward": "markov_chain",
    "ParallelKalman": "parallel",
    "ParticleResult": "particle",
    "PointRule": "rules",
    "PoissonEmission": "emissions",
    "PoissonGLM": "regressions",
    "Problem": "linear_gaussian",
    "Resampling": "resampling",
    "Residual": "resampling",
    "Rule": "rules",
    "SmootherResult": "smoother",
    "SquareRootKalman": "methods",
    "StateSpaceModel": "particle",
    "SteadyState": "steady",
    "Stratified": "resampling",
    "SwitchingGLM": "switching_glm",
    "Systematic": "resampling",
    "Unconstrained": "likelihood",
    "Unscented": "rules",
    "add": "structural",
    "associative_scan": "parallel",
    "autoregressive": "structural",
    "baum_welch": "markov_learning",
    "expectation_maximisation": "expectation",
    "exponential_basis": "switching_glm",
    "factors": "structural",
    "filter": "engine",
    "fit_switching_glm": "switching_glm",
    "local_level": "structural",
    "local_linear_trend": "structural",
    "log_likelihood": "engine",
    "maximise_likelihood": "likelihood",
    "particle_filter": "particle",
    "sample_paths": "particle_smoother",
    "sample_states": "smoother",
    "seasonal": "structural",
    "smooth": "smoother",
    "smooth_iterated": "iterated",
    "smooth_lagged": "smoother",
    "smooth_particles": "particle_smoother",
    "steady_state": "steady",
    "with_noise": "noisy_layer",
}

__all__ = [
    "Auxiliary",
    "BaumWelchResult",
    "BernoulliGLM",
    "Bootstrap",
    "CallableEmission",
    "CategoricalEmission",
    "Chain",
    "CouplingPrior",
    "Cubature",
    "Decoded",
    "DrivenTransition",
    "EMResult",
    "Emission",
    "EnsembleKalman",
    "Filter",
    "FilterResult",
    "FirstOrder",
    "Forward",
    "FreeCouplings",
    "GaussHermite",
    "GaussianCouplings",
    "GaussianEmission",
    "GaussianFilter",
    "Guided",
    "HiddenMarkov",
    "InformationKalman",
    "IteratedSmoothing",
    "Kalman",
    "LikelihoodFit",
    "LinearGaussian",
    "Localisation",
    "MarkovResult",
    "MarkovSmoothed",
    "Method",
    "Moments",
    "Multinomial",
    "NonlinearGaussian",
    "OneHotCouplings",
    "ParallelForward",
    "ParallelKalman",
    "ParticleResult",
    "PointRule",
    "PoissonEmission",
    "PoissonGLM",
    "Problem",
    "Resampling",
    "Residual",
    "Rule",
    "SmootherResult",
    "SquareRootKalman",
    "StateSpaceModel",
    "SteadyState",
    "Stratified",
    "SwitchingGLM",
    "Systematic",
    "Unconstrained",
    "Unscented",
    "add",
    "associative_scan",
    "autoregressive",
    "baum_welch",
    "expectation_maximisation",
    "exponential_basis",
    "factors",
    "filter",
    "fit_switching_glm",
    "local_level",
    "local_linear_trend",
    "log_likelihood",
    "maximise_likelihood",
    "particle_filter",
    "sample_paths",
    "sample_states",
    "seasonal",
    "smooth",
    "smooth_iterated",
    "smooth_lagged",
    "smooth_particles",
    "steady_state",
    "with_noise",
]

__getattr__, __dir__ = attach(__name__, _LAZY)
