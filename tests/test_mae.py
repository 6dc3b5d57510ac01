"The masked autoencoder: parity with the published one, equivalences, and input that must be refused."
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file

from max_nb.mae import (MAX, MAXConfig, NORMALISATIONS, Normaliser, Superposition, bands, check_mask, config_from, grouped_mask, load_strictly, patchify, preset_config, random_mask,
                        sincos_positions, visible_first, xpt_decoder, xpt_encoder)

PARITY = Path(__file__).parents[2] / "shared" / "parity"
needs_parity = pytest.mark.skipif(not PARITY.exists(), reason="no ../shared/parity: reference outputs of the published model are not at hand")
SMALL = dict(n_channels=128, max_kev=2.56, patch_size=8, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)


def counts(n=5, channels=128, seed=0):
    return np.random.default_rng(seed).poisson(200, (n, channels)).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    return load_file(PARITY / "reference.safetensors")


@pytest.fixture(scope="module")
def published():
    return MAX.from_xpt(PARITY / "mae.ckpt", PARITY / "config.json")


@needs_parity
@pytest.mark.parametrize("key", ["pos_embed", "decoder_pos_embed"])
def test_parity_positions(reference, key):
    want = reference[key][0]
    assert torch.allclose(sincos_positions(len(want) - 1, want.shape[1]), want, atol=1e-5)


@needs_parity
@pytest.mark.parametrize("kind, key", [("instance", "instance_norm"), ("log", "log")])
def test_parity_transforms(reference, kind, key):
    assert torch.allclose(Normaliser(kind, 2048)(reference["counts"]), reference[key], atol=1e-5)


@needs_parity
def test_parity_latent(reference, published):
    mask = reference["mask"].bool()
    latent = published.encode(reference["counts"], visible=~mask)
    shown = reference["ids_restore"].argsort(1)[:, : int((~mask[0]).sum())]  # patch of each token, in the reference's shuffled order
    order = torch.cat([torch.zeros(len(shown), 1, dtype=torch.long), shown.argsort(1) + 1], 1)
    want = reference["latent"].gather(1, order[..., None].expand_as(reference["latent"]))
    assert torch.allclose(latent, want, atol=1e-5)


@needs_parity
def test_parity_predictions_and_losses(reference, published):
    n = len(reference["counts"])
    nothing = published(reference["counts"], mask=torch.zeros(n, 128, dtype=torch.bool))
    assert torch.allclose(nothing.reconstruction.unflatten(1, (128, 16)), reference["pred_unmasked"], atol=1e-5)
    out = published(reference["counts"], mask=reference["mask"].bool())
    assert torch.allclose(out.reconstruction.unflatten(1, (128, 16)), reference["pred"], atol=1e-5)
    assert torch.allclose(out.loss, reference["loss_masked"][0], atol=1e-5)
    published_all = MAX(MAXConfig(**{**vars(published.config), "loss_on": "all"})).eval()
    published_all.load_state_dict(published.state_dict())
    assert torch.allclose(published_all(reference["counts"], mask=reference["mask"].bool()).loss, reference["loss_all"][0], atol=1e-5)


@needs_parity
def test_from_xpt_names_what_differs(tmp_path):
    state = torch.load(PARITY / "mae.ckpt", weights_only=True)
    del state["blocks.1.attn.qkv.bias"]
    state["norm.weight"] = state["norm.weight"][:-1]
    state["surprise"] = torch.zeros(3)
    torch.save(state, tmp_path / "wrong.ckpt")
    with pytest.raises(ValueError) as error:
        MAX.from_xpt(tmp_path / "wrong.ckpt", PARITY / "config.json")
    for word in ("wrong.ckpt", "missing encoder.blocks.1.attn.qkv.bias", "encoder.norm.weight has shape (95,), expected (96,)", "unknown surprise"):
        assert word in str(error.value)


@needs_parity
def test_a_regressor_without_a_decoder_is_refused():
    with pytest.raises(ValueError, match="missing decoder.blocks.0"):
        MAX.from_xpt(PARITY / "regressor.ckpt", PARITY / "config.json")


@needs_parity
def test_from_xpt_with_another_geometry_names_the_positions():
    config = json.loads((PARITY / "config.json").read_text())
    with pytest.raises(ValueError, match="pos_embed has shape"):
        MAX.from_xpt(PARITY / "mae.ckpt", config_from({**config, "patch_size": 32}))


def published_block(prefix, d):
    "Shapes of a transformer block in the published layout."
    return {f"{prefix}.{name}": shape for name, shape in {
        "norm1.weight": (d,), "norm1.bias": (d,), "attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,), "attn.proj.weight": (d, d), "attn.proj.bias": (d,),
        "norm2.weight": (d,), "norm2.bias": (d,), "mlp.fc1.weight": (4 * d, d), "mlp.fc1.bias": (4 * d,), "mlp.fc2.weight": (d, 4 * d), "mlp.fc2.bias": (d,)}.items()}


def published_shapes(depth=12, decoder_depth=8, d=768, e=512, patches=128, p=16):
    "Shapes of the released ViT-base checkpoint, by its names."
    shapes = {"cls_token": (1, 1, d), "mask_token": (1, 1, e), "pos_embed": (1, patches + 1, d), "decoder_pos_embed": (1, patches + 1, e),
              "patch_embed.proj.weight": (d, 1, p), "patch_embed.proj.bias": (d,), "norm.weight": (d,), "norm.bias": (d,), "decoder_embed.weight": (e, d),
              "decoder_embed.bias": (e,), "decoder_norm.weight": (e,), "decoder_norm.bias": (e,), "decoder_pred.weight": (p, e), "decoder_pred.bias": (p,)}
    for i in range(depth): shapes |= published_block(f"blocks.{i}", d)
    for i in range(decoder_depth): shapes |= published_block(f"decoder_blocks.{i}", e)
    return shapes


def test_the_released_checkpoint_fits_the_default_configuration():
    with torch.device("meta"):  # shapes alone: nothing is computed or stored
        model = MAX(MAXConfig())
        state = {k: torch.empty(shape) for k, shape in published_shapes().items()}
    ours = {f"normaliser.{k}": v for k, v in model.normaliser.state_dict().items()}
    load_strictly(model, {**ours, **xpt_encoder(state), **xpt_decoder(state)}, "the released checkpoint")
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.encoder, model.decoder)]
    assert [round(m, 1) for m in millions] == [85.1, 25.6]


def torch_block(state, prefix, d, heads):
    "PyTorch's own transformer layer with a published block's weights."
    layer = torch.nn.TransformerEncoderLayer(d, heads, 4 * d, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True).eval()
    names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1.", "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2."}
    layer.load_state_dict({ours + kind: state[f"{prefix}.{theirs}{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")})
    return layer


@torch.no_grad()
def test_parity_at_the_released_width_with_torch_layers(tmp_path):
    "Two blocks and one, at the width of ViT-base over 2048 channels, rebuilt from torch's own layers and a convolution."
    draw, shapes = torch.Generator().manual_seed(0), published_shapes(depth=2, decoder_depth=1)
    state = {k: torch.randn(shape, generator=draw) * 0.02 + (1.0 if k.endswith("norm.weight") else 0.0) for k, shape in shapes.items()}
    state |= {"pos_embed": sincos_positions(128, 768)[None], "decoder_pos_embed": sincos_positions(128, 512)[None]}
    torch.save(state, tmp_path / "mae.ckpt")
    model, x = MAX.from_xpt(tmp_path / "mae.ckpt", MAXConfig(depth=2, decoder_depth=1)), torch.as_tensor(counts(2, 2048))

    norm = lambda h, k: torch.nn.functional.layer_norm(h, h.shape[-1:], state[f"{k}.weight"], state[f"{k}.bias"], 1e-6)
    z = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    h = torch.nn.functional.conv1d(z[:, None], state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16).transpose(1, 2) + state["pos_embed"][:, 1:]
    h = torch.cat([(state["cls_token"] + state["pos_embed"][:, :1]).expand(2, -1, -1), h], 1)
    for i in range(2): h = torch_block(state, f"blocks.{i}", 768, 12)(h)
    h = norm(h, "norm")
    assert torch.allclose(model.encode(x), h, atol=1e-5)
    h = torch.nn.functional.linear(h, state["decoder_embed.weight"], state["decoder_embed.bias"]) + state["decoder_pos_embed"]
    h = norm(torch_block(state, "decoder_blocks.0", 512, 16)(h), "decoder_norm")
    want = torch.nn.functional.linear(h, state["decoder_pred.weight"], state["decoder_pred.bias"])[:, 1:].flatten(1)
    assert torch.allclose(model(x, mask=torch.zeros(128, dtype=torch.bool)).reconstruction, want, atol=1e-5)


@needs_parity
def test_a_published_checkpoint_comes_from_the_hub(monkeypatch, published):
    asked = []
    def download(repo, file): asked.append((repo, file)); return str(PARITY / Path(file).name)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    model = MAX.from_xpt("paoyw/max/pretrained/mae.ckpt", "paoyw/max/pretrained/config.json")
    assert sorted(asked) == [("paoyw/max", "pretrained/config.json"), ("paoyw/max", "pretrained/mae.ckpt")]
    assert torch.equal(model.encode(counts(2, 2048)), published.encode(counts(2, 2048)))


def test_without_a_network_the_message_says_what_was_looked_for(monkeypatch):
    def refuse(*_, **__): raise OSError("no network here")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    for checkpoint, config in (("paoyw/max/mae.ckpt", MAXConfig(**SMALL)), ("some.ckpt", "paoyw/max/config.json")):
        with pytest.raises(ValueError, match="paoyw/max/.*neither a file nor.*Hub.*network"):
            MAX.from_xpt(checkpoint, config)


@pytest.mark.parametrize("path", ["missing.ckpt", "folder/missing.ckpt", "/no/such/folder/missing.ckpt", "../no/such/missing.ckpt"])
def test_a_missing_file_is_not_looked_for_on_the_hub(monkeypatch, path):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(ValueError, match="missing.ckpt"):
        MAX.from_xpt(path, MAXConfig(**SMALL))


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="x.ckpt"):
        MAX.from_xpt(tmp_path / "x.ckpt", MAXConfig(**SMALL))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    with open(tmp_path / "evil.ckpt", "wb") as f:
        pickle.dump({"cls_token": Evil()}, f)
    with pytest.raises(ValueError, match="evil.ckpt"):
        MAX.from_xpt(tmp_path / "evil.ckpt", MAXConfig(**SMALL))
    assert not (tmp_path / "ran").exists()


@given(n=st.integers(1, 6), n_patches=st.integers(2, 40), ratio=st.floats(0, 0.99), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_random_mask_hides_the_same_number(n, n_patches, ratio, seed):
    mask = random_mask(n, n_patches, ratio, torch.Generator().manual_seed(seed))
    assert mask.shape == (n, n_patches) and (mask.sum(1) == n_patches - int(n_patches * (1 - ratio))).all()


@given(seed=st.integers(0, 999), n=st.integers(1, 5), n_patches=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_visible_first_lists_every_patch_once(seed, n, n_patches):
    visible = torch.rand(n, n_patches, generator=torch.Generator().manual_seed(seed)) < 0.5
    order, valid = visible_first(visible)
    assert valid.shape[1] == visible.sum(1).max() and (order.sort(1).values == torch.arange(n_patches)).all()
    for row in range(n):
        assert order[row, : valid.shape[1]][valid[row]].tolist() == visible[row].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("kind", sorted(NORMALISATIONS))
def test_normalisation_can_be_undone(kind):
    x = torch.as_tensor(counts(6))
    normaliser = Normaliser(kind, 128)
    normaliser.learn(x)
    assert torch.allclose(normaliser.inverse(normaliser(x), x), x, rtol=1e-3, atol=0.5)


@pytest.mark.parametrize("kind", sorted(NORMALISATIONS))
def test_every_normalisation_survives_empty_spectra(kind):
    model = MAX(MAXConfig(**SMALL, normalisation=kind)).eval()
    x = torch.zeros(2, 128)
    model.normaliser.learn(torch.as_tensor(counts(6)))
    assert model.encode(x).isfinite().all()


def test_rows_with_different_numbers_of_visible_patches_agree_with_single_rows():
    model = MAX(MAXConfig(**SMALL)).eval()
    x, mask = counts(3), torch.rand(3, 16, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[:, 0] = False
    assert len(set(mask.sum(1).tolist())) > 1
    together = model.reconstruct(x, mask)
    for i in range(3):
        assert torch.allclose(together[i], model.reconstruct(x[i : i + 1], mask[i])[0], rtol=1e-4, atol=1e-3)


def test_hiding_everything_still_gives_a_finite_guess():
    model = MAX(MAXConfig(**SMALL)).eval()
    assert model.reconstruct(counts(2), torch.ones(16, dtype=torch.bool)).isfinite().all()


def test_the_same_seed_gives_the_same_output():
    model = MAX.from_preset("tiny", seed=3)
    x = counts(2, 2048)
    a, b, c = model(x, seed=1), model(x, seed=1), model(x, seed=2)
    assert torch.equal(a.reconstruction, b.reconstruction) and not torch.equal(a.mask, c.mask)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), MAX.from_preset("tiny", seed=3).parameters()))


def test_from_preset_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    MAX.from_preset("tiny", seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_the_window_leaves_out_what_lies_above_it():
    model = MAX.from_preset("tiny").eval()
    x = counts(2, 2048)
    y = x.copy(); y[:, 512:] = 7
    assert torch.equal(model.encode(x), model.encode(y))
    assert torch.equal(model.reconstruct(y, torch.ones(32, dtype=torch.bool))[:, 512:], torch.as_tensor(y[:, 512:]))


@pytest.mark.parametrize("name, patches, width", [("tiny", 32, 96), ("small", 32, 256), ("base", 32, 768), ("large", 32, 1024)])
def test_presets(name, patches, width):
    config = preset_config(name)
    assert (config.n_patches, config.embed_dim) == (patches, width)


def test_the_default_configuration_is_the_published_one():
    c = MAXConfig()
    assert (c.n_patches, c.embed_dim, c.depth, c.num_heads, c.decoder_embed_dim, c.decoder_depth, c.decoder_num_heads, c.normalisation) == (128, 768, 12, 12, 512, 8, 16, "instance")


@pytest.mark.parametrize("change, word", [
    (dict(patch_size=0), "patch_size"), (dict(normalisation="row"), "normalisation"), (dict(loss_on="none"), "loss_on"), (dict(mask_ratio=1.0), "mask_ratio"),
    (dict(max_kev=0.1), "max_kev"), (dict(embed_dim=17), "embed_dim"), (dict(decoder_embed_dim=9), "decoder_embed_dim")])
def test_a_configuration_that_cannot_work(change, word):
    with pytest.raises(ValueError, match=f"MAXConfig.{word}"):
        MAXConfig(**{**SMALL, **change})


@pytest.mark.parametrize("bad, word", [
    (np.zeros((2, 100)), "expected .B, 128."), (np.zeros(128), "two dimensions|expected"), (np.full((1, 128), np.nan), "finite"), (-np.ones((1, 128)), "at least 0"),
    (np.array([["a"] * 128]), "numbers"), (np.zeros((0, 128)), "at least one")])
def test_counts_that_are_none(bad, word):
    with pytest.raises(ValueError, match=word):
        MAX(MAXConfig(**SMALL))(bad)


@pytest.mark.parametrize("bad, word", [(np.zeros((2, 16)), "expected bool"), (np.zeros((2, 15), bool), "expected .2, 16."), (np.zeros((3, 16), bool), "expected .2, 16."), (np.zeros((1, 2, 16), bool), "expected")])
def test_masks_that_are_none(bad, word):
    with pytest.raises(ValueError, match=word):
        check_mask(bad, 2, 16)


def test_encode_refuses_ragged_rows():
    visible = torch.ones(2, 16, dtype=torch.bool); visible[0, 3] = False
    with pytest.raises(ValueError, match="one number for all"):
        MAX(MAXConfig(**SMALL)).encode(counts(2), visible)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2])
def test_mask_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        random_mask(2, 8, ratio)


def test_saved_models_load_bit_for_bit(tmp_path):
    model = MAX(MAXConfig(**SMALL)).eval()
    again = MAX.from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert again.config == model.config and torch.equal(again.encode(counts()), model.encode(counts()))
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]


def test_a_truncated_model_file_is_named(tmp_path):
    path = MAX(MAXConfig(**SMALL)).save_pretrained(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors"):
        MAX.from_pretrained(tmp_path)


def test_weights_of_another_geometry_are_refused(tmp_path):
    MAX(MAXConfig(**SMALL)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "depth": 3}))
    with pytest.raises(ValueError, match="missing encoder.blocks.2"):
        MAX.from_pretrained(tmp_path)


@pytest.mark.parametrize("text, word", [("{", "JSON"), ('{"colour": 1}', "colour"), ('{"patch_size": 0}', "patch_size")])
def test_a_broken_config(tmp_path, text, word):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=word):
        MAX.from_pretrained(tmp_path)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ValueError, match="config.json"):
        MAX.from_pretrained(tmp_path)


def test_patchify_is_a_view_of_the_same_numbers():
    x = torch.arange(32.).reshape(2, 16)
    assert torch.equal(patchify(x, 4).flatten(1), x)


@pytest.mark.parametrize("kind", ["log", "instance", "log-instance", "sqrt-instance"])
def test_statistics_are_learned_only_where_they_are_used(kind):
    model = MAX.from_preset("tiny", normalisation=kind)
    counts = torch.rand(4, model.config.n_window) * 100
    before = model.normaliser(counts)
    model.normaliser.learn(counts * 3)
    assert torch.equal(model.normaliser(counts), before)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_loss_alone_is_the_loss(depth):
    "Guessing only the hidden patches gives the same loss and gradients, also where rows hide different numbers."
    model = MAX(MAXConfig(**dict(SMALL, decoder_depth=depth)))
    counts = torch.poisson(torch.full((4, model.config.n_channels), 50.0), generator=torch.Generator().manual_seed(0))
    even = random_mask(4, model.config.n_patches, 0.5, torch.Generator().manual_seed(1))
    uneven = even.clone(); uneven[0, :3] = True
    for mask in (even, uneven):
        grads = []
        for alone in (False, True):
            model.zero_grad()
            out = model(counts, mask=mask, loss_only=alone)
            out.loss.backward()
            grads.append((out.loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)))
            assert (out.reconstruction is None) == alone
        for a, b in zip(*grads):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("share", [(0.5,) * 4, (0.0, 0.3, 0.7, 1.0)], ids=["even", "ragged"])
def test_the_order_of_the_decoders_tokens_does_not_matter(depth, share):
    "The same guesses with tokens laid out by energy, one spectrum after the other, as the paper tells it."
    model = MAX(MAXConfig(**dict(SMALL, decoder_depth=depth))).eval()
    draw, c, decoder = torch.Generator().manual_seed(0), model.config, model.decoder
    x = model.patches(torch.poisson(torch.full((4, c.n_channels), 50.0), generator=draw))
    mask = torch.cat([random_mask(1, c.n_patches, s, draw) if s < 1 else torch.ones(1, c.n_patches, dtype=torch.bool) for s in share])
    want = []
    for row, hidden in zip(x, mask):
        tokens = decoder.embed(model.encoder(row[None], ~hidden[None])[0])[0]
        full = decoder.mask_token[0].repeat(1 + c.n_patches, 1)
        full[0], full[1:][~hidden] = tokens[0], tokens[1:]
        full = (full + decoder.positions)[None]
        for block in decoder.blocks: full = block(full)
        want.append(decoder.pred(decoder.norm(full))[0, 1:])
    torch.testing.assert_close(decoder(*model.encoder(x, ~mask)), torch.stack(want), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_spectrum_is_guessed_alike_whatever_the_others_hide(depth):
    model = MAX(MAXConfig(**dict(SMALL, decoder_depth=depth))).eval()
    draw = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((6, model.config.n_channels), 50.0), generator=draw)
    mask = torch.rand(6, model.config.n_patches, generator=draw) < torch.tensor([0.0, 0.2, 0.5, 0.5, 0.8, 1.0])[:, None]
    assert len(mask.sum(1).unique()) > 3
    alone = torch.cat([model(counts[i : i + 1], mask[i : i + 1]).reconstruction for i in range(6)])
    torch.testing.assert_close(model(counts, mask).reconstruction, alone, rtol=1e-4, atol=1e-5)


def test_the_loss_alone_of_a_spectrum_with_nothing_hidden_is_that_of_the_whole():
    model = MAX(MAXConfig(**SMALL))
    counts, mask = torch.full((2, model.config.n_channels), 9.0), torch.zeros(2, model.config.n_patches, dtype=torch.bool)
    assert torch.equal(model(counts, mask=mask, loss_only=True).loss, model(counts, mask=mask).loss)


@pytest.mark.parametrize("loss_on", ["hidden", "all"])
def test_for_the_loss_the_channels_of_the_window_are_enough(loss_on):
    model = MAX(MAXConfig(**dict(SMALL, max_kev=1.28, loss_on=loss_on)))
    n, c = model.config.n_window, model.config.n_channels
    counts, mask = torch.poisson(torch.full((3, c), 9.0)), random_mask(3, model.config.n_patches, 0.5)
    assert n < c and torch.equal(model(counts[:, :n], mask=mask, loss_only=True).loss, model(counts, mask=mask, loss_only=True).loss)
    assert torch.isclose(model(counts[:, :n], mask=mask, loss_only=True).loss, model(counts, mask=mask).loss, rtol=1e-4)
    for wrong in (counts[:, :n], counts[:, : n + 1], counts[0]):
        with pytest.raises(ValueError, match=rf"expected \(B, {c}\)"): model(wrong, mask=mask)
    with pytest.raises(ValueError, match=rf"expected \(B, {c}\)"): model(counts[:, : n + 1], mask=mask, loss_only=True)


@given(st.integers(2, 40), st.integers(1, 8), st.floats(0.05, 0.95), st.integers(0, 99))
def test_groups_hide_as_many_in_every_row(n_patches, width, ratio, seed):
    mask = grouped_mask(5, bands(n_patches, width), ratio, torch.Generator().manual_seed(seed))
    assert (mask.sum(1) == n_patches - int(n_patches * (1 - ratio))).all()


def test_a_group_is_hidden_whole_before_the_next_one_begins():
    groups = torch.zeros(2, 8, dtype=torch.bool); groups[0, :4], groups[1, 4:] = True, True
    mask = grouped_mask(50, groups, 0.5, torch.Generator().manual_seed(0))
    assert set(map(tuple, mask.int().tolist())) == {(1,) * 4 + (0,) * 4, (0,) * 4 + (1,) * 4}


def mixtures(n, seed=0, ends=3):
    "Spectra of 128 channels that are mixtures of a few, with counting noise."
    rng = np.random.default_rng(seed)
    pure = np.random.default_rng(9).gamma(0.5, size=(ends, 128)) + 0.02
    return rng.poisson(rng.dirichlet(np.ones(ends), n) @ (1e6 * pure / pure.sum(1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize("kind", sorted(NORMALISATIONS))
def test_superposition_guesses_mixtures_to_within_their_noise_in_any_units(kind):
    model = MAX(MAXConfig(**SMALL, normalisation=kind, components=2)).eval()
    model.learn_statistics(lambda: [torch.as_tensor(mixtures(200))])
    new = torch.as_tensor(mixtures(20, seed=1))
    mask = random_mask(20, 16, 0.5, torch.Generator().manual_seed(0))
    hidden = mask.repeat_interleave(8, 1)
    off = ((model.reconstruct(new, mask) - new) / new.clamp_min(1).sqrt())[hidden]
    assert 0.8 < off.std() < 1.4


def test_superposition_learns_the_same_in_parts_and_at_any_strength():
    x = torch.as_tensor(mixtures(90))
    whole, parts, weak = (Superposition(128, 8, 2) for _ in range(3))
    whole.learn(x); parts.learn(x.split(25)); weak.learn(x * 0.5)
    visible = ~random_mask(5, 16, 0.5, torch.Generator().manual_seed(3))
    assert torch.allclose(parts(x[:5], visible), whole(x[:5], visible), rtol=1e-3, atol=0.5)
    assert torch.allclose(10 * weak(0.1 * x[:5], visible), whole(x[:5], visible), rtol=2e-3, atol=2)
    nothing = whole(x[:5], torch.zeros(5, 16, dtype=torch.bool)) * (1e6 / x[:5].sum(1, keepdim=True))
    assert torch.allclose(nothing, whole.mean.expand(5, -1), rtol=1e-4, atol=0.5)


def test_a_superposition_given_afterwards_leaves_the_tokens_and_survives_saving(tmp_path):
    model = MAX(MAXConfig(**SMALL, normalisation="sqrt-channel")).eval()
    x = torch.as_tensor(mixtures(40))
    model.learn_statistics(lambda: [x])
    added = model.with_components(x, 2)
    assert model.superposition is None and torch.equal(added.encode(x), model.encode(x))
    again = MAX.from_pretrained(added.save_pretrained(tmp_path, half=True))
    mask = random_mask(40, 16, 0.5, torch.Generator().manual_seed(0))
    assert again.config.components == 2 and torch.equal(again.superposition.parts, added.superposition.parts)
    assert torch.allclose(again.reconstruct(x, mask), added.reconstruct(x, mask), rtol=1e-2, atol=2)
    short = added(x, mask, loss_only=True).loss
    assert torch.isclose(short, added(x, mask).loss, rtol=1e-4)


@pytest.mark.parametrize("components, n, message", [(-1, 40, "components is -1; expected 0 or more, fewer than the 128"), (0, 40, "components is 0; expected at least 1"), (128, 40, "components is 128; expected 0 or more"), (16, 17, "17 spectra are too few for 16 components; expected at least 18")])
def test_components_that_cannot_be_had(components, n, message):
    with pytest.raises(ValueError, match=message):
        MAX(MAXConfig(**SMALL)).with_components(mixtures(n), components)


def test_channel_as_published_leaves_a_spectrum_its_strength():
    x = torch.as_tensor(mixtures(30))
    published, ours = Normaliser("channel", 128), Normaliser("total-channel", 128)
    for n in (published, ours):
        n.learn(x)
    assert torch.allclose(published(x), (x - x.mean(0)) / x.std(0, correction=0), rtol=0.02, atol=1e-3)
    assert torch.allclose(ours(2 * x), ours(x), atol=1e-4) and not torch.allclose(published(2 * x), published(x), atol=0.1)


@pytest.mark.parametrize("hidden", [slice(0, 4), slice(3, 15)])
def test_superposition_does_not_see_what_is_hidden(hidden):
    x = torch.as_tensor(mixtures(60))
    told = Superposition(128, 8, 2)
    told.learn(x)
    visible = torch.ones(60, 16, dtype=torch.bool)
    visible[:, hidden] = False
    changed = torch.where(visible.repeat_interleave(8, 1), x, 7 * x + 1000)
    assert torch.equal(told(x, visible), told(changed, visible))
