"""The words of SAELens' configs, of all versions: what says what is computed, and our names."""

from collections.abc import Mapping

from sae.interop.pretrained import Activation, Normalization
from sae.interop.sources import keys

ACTIVATIONS: Mapping[str, Activation] = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abs_topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "matching_pursuit": "matching_pursuit",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}
"""By SAELens' architectures. The last two are what training saves; used, they are a threshold."""

NORMALIZATIONS: Mapping[str, Normalization] = {
    "none": "none",
    "expected_average_only_in": "none",  # folded
    "covariance_whitening": "none",  # folded
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm",
}

COMPUTED = keys(
    "architecture d_in d_sae d_out k apply_b_dec_to_input normalize_activations",
    "reshape_activations rescale_acts_by_decoder_norm residual_threshold max_iterations",
    "stop_on_duplicate_support",
)
"""Keys of version 6 that say what a dictionary computes."""

HARMLESS = keys(
    # what a file says of itself, and where it was
    "metadata dtype device sae_lens_version sae_lens_training_version verbose seed",
    # losses and initialisation
    "l1_coefficient l1_warm_up_steps lp_norm l0_coefficient l0_warm_up_steps target_l0",
    "aux_loss_coefficient pre_act_loss_coefficient mse_loss_normalization use_ghost_grads",
    "scale_sparsity_penalty_by_decoder_norm noise_scale decoder_init_norm decoder_heuristic_init",
    "decoder_orthogonal_init decoder_heuristic_init_norm init_encoder_as_decoder_transpose",
    "normalize_sae_decoder b_dec_init_method jumprelu_bandwidth jumprelu_init_threshold",
    "jumprelu_sparsity_loss_mode jumprelu_ste_to_input jumprelu_tanh_scale topk_threshold_lr",
    "matryoshka_widths use_matryoshka_aux_loss use_sparse_activations expansion_factor",
    # training
    "lr lr_scheduler_name lr_warm_up_steps lr_end lr_decay_steps n_restart_cycles adam_beta1",
    "adam_beta2 training_tokens total_training_tokens total_training_steps finetuning_tokens",
    "finetuning_method train_batch_size train_batch_size_tokens feature_sampling_window",
    "feature_sampling_method resample_batches feature_reinit_scale dead_feature_window",
    "dead_feature_threshold dead_feature_estimation_method from_pretrained_path resume",
    "resume_from_checkpoint n_checkpoints checkpoint_path save_final_checkpoint output_path",
    # where activations came from
    "model_name model_class_name model_kwargs model_from_pretrained_kwargs hook_name hook_point",
    "hook_layer hook_point_layer hook_eval hook_point_eval hook_head_index hook_point_head_index",
    "context_size prepend_bos seqpos_slice exclude_special_tokens sequence_separator_token",
    "disable_concat_sequences dataset_path dataset_trust_remote_code is_dataset_tokenized",
    "streaming use_cached_activations cached_activations_path n_batches_in_buffer",
    "n_batches_for_norm_estimate tokens_per_buffer store_batch_size store_batch_size_prompts",
    "activations_mixing_fraction act_store_device llm_device use_chat_formatting",
    "prefetch_llm_batches neuronpedia_id autocast autocast_lm compile_llm llm_compilation_mode",
    "compile_sae sae_compilation_mode",
    # what was written about it
    "logger log_to_wandb log_activations_store_to_wandb log_optimizer_state_to_wandb",
    "wandb_project wandb_entity wandb_id wandb_log_frequency eval_every_n_wandb_logs",
    "n_eval_batches n_eval_seqs eval_batch_size_prompts run_name",
)
"""Keys that change nothing of what a dictionary computes once it is trained."""
