"""Which module of the package holds each public name."""

from __future__ import annotations

_BY_MODULE = {
    "backward_draws": "BackwardDraws ExactBackward MetropolisBackward RejectionBackward",
    "chain_diagnostics": "ChainSummary ess_bulk ess_mean ess_tail rhat summarise_chains to_arviz",
    "climbing": "Climb climb_likelihood fit_proposal",
    "conditional": "conditional_particles",
    "coverage": "Calibration calibration predictive_pit state_pit",
    "diagnostics": "InnovationTests innovation_tests",
    "discriminative": (
        "AddMarginal ClipEigenvalues Discriminative DiscriminativeState Measurement Repair"
    ),
    "discriminative_fit": "fit_discriminative",
    "emissions": "CategoricalEmission Emission GaussianEmission PoissonEmission",
    "engine": "Filter FilterResult filter log_likelihood",
    "ensemble": "EnsembleKalman Localisation",
    "evidence_error": "Evidence evidence pooled_evidence root_indices",
    "expectation": "EMResult expectation_maximisation",
    "fisher_score": "GibbsScore ParisScore ParisianScore Score ScoreRule log_joint score",
    "gaussian": "GaussianFilter",
    "hidden_markov": "HiddenMarkov",
    "iterated": "IteratedSmoothing smooth_iterated",
    "likelihood": "LikelihoodFit Unconstrained maximise_likelihood",
    "linear_gaussian": "LinearGaussian Problem",
    "markov_chain": "Chain Decoded Forward MarkovResult MarkovSmoothed ParallelForward",
    "markov_learning": "BaumWelchResult baum_welch",
    "methods": "InformationKalman Kalman Method SquareRootKalman",
    "moments": "Moments",
    "nested_particles": "SMC2 smc2",
    "neural_law": "CholeskyNetwork",
    "noisy_layer": "with_noise",
    "nonlinear_gaussian": "NonlinearGaussian",
    "parallel": "ParallelKalman associative_scan",
    "parisian_smoother": "Additive ParisResult paris",
    "parisian_sweeps": "ParisianGibbs ParisianResult SmoothedPairs parisian_gibbs",
    "particle": (
        "Auxiliary Bootstrap Guided ParticleResult ParticleSummary StateSpaceModel particle_filter"
    ),
    "particle_metropolis": "PMMHResult RandomWalk pmmh",
    "particle_smoother": "GenealogyBackward sample_paths smooth_particles smooth_particles_lagged",
    "particle_tuning": "ParticleTuning tune_particles",
    "path_kernels": (
        "AncestorSampling AncestorTracing BackwardSampling GibbsResult PathKernel particle_gibbs"
    ),
    "rao_blackwell": (
        "ConditionallyLinear Linear RaoBlackwellResult SwitchingLinear rao_blackwell_filter"
    ),
    "regressions": "BernoulliGLM CallableEmission DrivenTransition PoissonGLM",
    "regressors": (
        "ConstantCovariance CovarianceRegression GaussianProcess KernelCovariance "
        "NadarayaWatson Pairs Regression"
    ),
    "resampling": "Multinomial Resampling Residual Stratified Systematic",
    "rules": "Cubature FirstOrder GaussHermite PointRule Rule Unscented",
    "smc2_result": "SMC2Result",
    "smoother": "SmootherResult sample_states smooth smooth_lagged",
    "steady": "SteadyState steady_state",
    "structural": "add autoregressive factors local_level local_linear_trend seasonal",
    "switching_glm": (
        "CouplingPrior FreeCouplings GaussianCouplings OneHotCouplings SwitchingGLM "
        "exponential_basis fit_switching_glm"
    ),
}

HOMES = {name: module for module, names in _BY_MODULE.items() for name in names.split()}
