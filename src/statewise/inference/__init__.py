"""Filters, smoothers and learning for state-space models with noise.

A method is (init, prepare, combine, associative); one engine runs it step by step, in parallel
over time, or online.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from statewise._lazy import attach
from statewise.inference._homes import HOMES

if TYPE_CHECKING:
    from statewise.inference.backward_draws import (
        BackwardDraws,
        ExactBackward,
        MetropolisBackward,
        RejectionBackward,
    )
    from statewise.inference.chain_diagnostics import (
        ChainSummary,
        ess_bulk,
        ess_mean,
        ess_tail,
        rhat,
        summarise_chains,
        to_arviz,
    )
    from statewise.inference.climbing import Climb, climb_likelihood, fit_proposal
    from statewise.inference.conditional import conditional_particles
    from statewise.inference.coverage import Calibration, calibration, predictive_pit, state_pit
    from statewise.inference.diagnostics import InnovationTests, innovation_tests
    from statewise.inference.discriminative import (
        AddMarginal,
        ClipEigenvalues,
        Discriminative,
        DiscriminativeState,
        Measurement,
        Repair,
    )
    from statewise.inference.discriminative_fit import fit_discriminative
    from statewise.inference.emissions import (
        CategoricalEmission,
        Emission,
        GaussianEmission,
        PoissonEmission,
    )
    from statewise.inference.engine import Filter, FilterResult, filter, log_likelihood
    from statewise.inference.ensemble import EnsembleKalman, Localisation
    from statewise.inference.evidence_error import Evidence, evidence, pooled_evidence, root_indices
    from statewise.inference.expectation import EMResult, expectation_maximisation
    from statewise.inference.fisher_score import (
        GibbsScore,
        ParisianScore,
        ParisScore,
        Score,
        ScoreRule,
        log_joint,
        score,
    )
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
    from statewise.inference.nested_particles import SMC2, smc2
    from statewise.inference.neural_law import CholeskyNetwork
    from statewise.inference.noisy_layer import with_noise
    from statewise.inference.nonlinear_gaussian import NonlinearGaussian
    from statewise.inference.parallel import ParallelKalman, associative_scan
    from statewise.inference.parisian_smoother import Additive, ParisResult, paris
    from statewise.inference.parisian_sweeps import (
        ParisianGibbs,
        ParisianResult,
        SmoothedPairs,
        parisian_gibbs,
    )
    from statewise.inference.particle import (
        Auxiliary,
        Bootstrap,
        Guided,
        ParticleResult,
        ParticleSummary,
        StateSpaceModel,
        particle_filter,
    )
    from statewise.inference.particle_metropolis import PMMHResult, RandomWalk, pmmh
    from statewise.inference.particle_smoother import (
        GenealogyBackward,
        sample_paths,
        smooth_particles,
        smooth_particles_lagged,
    )
    from statewise.inference.particle_tuning import ParticleTuning, tune_particles
    from statewise.inference.path_kernels import (
        AncestorSampling,
        AncestorTracing,
        BackwardSampling,
        GibbsResult,
        PathKernel,
        particle_gibbs,
    )
    from statewise.inference.rao_blackwell import (
        ConditionallyLinear,
        Linear,
        RaoBlackwellResult,
        SwitchingLinear,
        rao_blackwell_filter,
    )
    from statewise.inference.regressions import (
        BernoulliGLM,
        CallableEmission,
        DrivenTransition,
        PoissonGLM,
    )
    from statewise.inference.regressors import (
        ConstantCovariance,
        CovarianceRegression,
        GaussianProcess,
        KernelCovariance,
        NadarayaWatson,
        Pairs,
        Regression,
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
    from statewise.inference.smc2_result import SMC2Result
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

__all__ = [
    "SMC2",
    "AddMarginal",
    "Additive",
    "AncestorSampling",
    "AncestorTracing",
    "Auxiliary",
    "BackwardDraws",
    "BackwardSampling",
    "BaumWelchResult",
    "BernoulliGLM",
    "Bootstrap",
    "Calibration",
    "CallableEmission",
    "CategoricalEmission",
    "Chain",
    "ChainSummary",
    "CholeskyNetwork",
    "Climb",
    "ClipEigenvalues",
    "ConditionallyLinear",
    "ConstantCovariance",
    "CouplingPrior",
    "CovarianceRegression",
    "Cubature",
    "Decoded",
    "Discriminative",
    "DiscriminativeState",
    "DrivenTransition",
    "EMResult",
    "Emission",
    "EnsembleKalman",
    "Evidence",
    "ExactBackward",
    "Filter",
    "FilterResult",
    "FirstOrder",
    "Forward",
    "FreeCouplings",
    "GaussHermite",
    "GaussianCouplings",
    "GaussianEmission",
    "GaussianFilter",
    "GaussianProcess",
    "GenealogyBackward",
    "GibbsResult",
    "GibbsScore",
    "Guided",
    "HiddenMarkov",
    "InformationKalman",
    "InnovationTests",
    "IteratedSmoothing",
    "Kalman",
    "KernelCovariance",
    "LikelihoodFit",
    "Linear",
    "LinearGaussian",
    "Localisation",
    "MarkovResult",
    "MarkovSmoothed",
    "Measurement",
    "Method",
    "MetropolisBackward",
    "Moments",
    "Multinomial",
    "NadarayaWatson",
    "NonlinearGaussian",
    "OneHotCouplings",
    "PMMHResult",
    "Pairs",
    "ParallelForward",
    "ParallelKalman",
    "ParisResult",
    "ParisScore",
    "ParisianGibbs",
    "ParisianResult",
    "ParisianScore",
    "ParticleResult",
    "ParticleSummary",
    "ParticleTuning",
    "PathKernel",
    "PointRule",
    "PoissonEmission",
    "PoissonGLM",
    "Problem",
    "RandomWalk",
    "RaoBlackwellResult",
    "Regression",
    "RejectionBackward",
    "Repair",
    "Resampling",
    "Residual",
    "Rule",
    "SMC2Result",
    "Score",
    "ScoreRule",
    "SmoothedPairs",
    "SmootherResult",
    "SquareRootKalman",
    "StateSpaceModel",
    "SteadyState",
    "Stratified",
    "SwitchingGLM",
    "SwitchingLinear",
    "Systematic",
    "Unconstrained",
    "Unscented",
    "add",
    "associative_scan",
    "autoregressive",
    "baum_welch",
    "calibration",
    "climb_likelihood",
    "conditional_particles",
    "ess_bulk",
    "ess_mean",
    "ess_tail",
    "evidence",
    "expectation_maximisation",
    "exponential_basis",
    "factors",
    "filter",
    "fit_discriminative",
    "fit_proposal",
    "fit_switching_glm",
    "innovation_tests",
    "local_level",
    "local_linear_trend",
    "log_joint",
    "log_likelihood",
    "maximise_likelihood",
    "paris",
    "parisian_gibbs",
    "particle_filter",
    "particle_gibbs",
    "pmmh",
    "pooled_evidence",
    "predictive_pit",
    "rao_blackwell_filter",
    "rhat",
    "root_indices",
    "sample_paths",
    "sample_states",
    "score",
    "seasonal",
    "smc2",
    "smooth",
    "smooth_iterated",
    "smooth_lagged",
    "smooth_particles",
    "smooth_particles_lagged",
    "state_pit",
    "steady_state",
    "summarise_chains",
    "to_arviz",
    "tune_particles",
    "with_noise",
]

__getattr__, __dir__ = attach(__name__, HOMES)
