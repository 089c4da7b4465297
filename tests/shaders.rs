//! Every variant of every shader translates to what Vulkan, Metal and DX12 take, within what any of their devices has.
//! CI can run Vulkan alone; this is what it can know of the others.
#![cfg(feature = "gpu")]

use naga::back::{hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, TypeInner};
use softreg::backend::gpu::{AdamWHead, MomentumHead, Step, Variant};

/// What every device has: the smallest limits that WebGPU allows.
const STORAGE_BUFFERS: usize = 8;
const WORKGROUP_BYTES: u32 = 16_384;
const WORKGROUP_THREADS: u32 = 256;

/// Whether it needs matrix units.
fn is_cooperative(variant: &Variant) -> bool {
    variant.name.ends_with("_cooperative")
}

/// The variant with its constants filled in. No capability is granted but that of unpacking f16, which every adapter of
/// Vulkan, Metal and DX12 has: not subgroups, not f16 arithmetic, not f64. Variants for matrix units have those and f16.
fn compile(variant: &Variant) -> Result<(Module, ModuleInfo), String> {
    let source = variant.wgsl();
    let module = naga::front::wgsl::parse_str(&source).map_err(|error| error.emit_to_string(&source))?;
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if is_cooperative(variant) {
        capabilities |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16;
    }
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator.validate(&module).map_err(|error| error.emit_to_string(&source))?;
    let constants = variant.constants.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
    let entry = Some((ShaderStage::Compute, variant.name));
    let (module, info) = process_overrides(&module, &info, entry, &constants).map_err(|error| error.to_string())?;
    Ok((module.into_owned(), info.into_owned()))
}

#[test]
fn every_variant_translates() {
    let variants = Variant::all();
    assert!(variants.len() > 40, "{}", variants.len());
    for variant in variants {
        let what = format!("{} {:?} {:?}", variant.name, variant.features, variant.constants);
        let (module, info) = compile(&variant).unwrap_or_else(|error| panic!("{what}: {error}"));
        let entry = (ShaderStage::Compute, variant.name.to_owned());

        // As wgpu compiles them: for Vulkan 1.1, for Metal 2.0, and for both compilers of DX12.
        let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
        let pipeline = spv::PipelineOptions { shader_stage: entry.0, entry_point: entry.1.clone() };
        let words = spv::write_vec(&module, &info, &options, Some(&pipeline));
        assert!(!words.unwrap_or_else(|error| panic!("{what}: SPIR-V: {error}")).is_empty());

        // Matrix units of Metal have 8 × 8 matrices alone, since 2.3.
        if variant.source.contains("coop_mat16x16") {
            continue;
        }
        let lang_version = if is_cooperative(&variant) { (2, 3) } else { (2, 0) };
        let options = msl::Options { lang_version, ..msl::Options::default() };
        let pipeline = msl::PipelineOptions { entry_point: Some(entry.clone()), ..msl::PipelineOptions::default() };
        let (text, _) =
            msl::write_string(&module, &info, &options, &pipeline).unwrap_or_else(|e| panic!("{what}: MSL: {e}"));
        assert!(text.contains("kernel void"));

        // naga writes no HLSL for matrix units, and wgpu offers none on DX12.
        if is_cooperative(&variant) {
            continue;
        }
        for shader_model in [hlsl::ShaderModel::V5_1, hlsl::ShaderModel::V6_0] {
            // Where wgpu puts the number of workgroups.
            let special_constants_binding = Some(hlsl::BindTarget { space: 1, ..hlsl::BindTarget::default() });
            let options = hlsl::Options { shader_model, special_constants_binding, ..hlsl::Options::default() };
            let pipeline = hlsl::PipelineOptions { entry_point: Some(entry.clone()) };
            let mut text = String::new();
            hlsl::Writer::new(&mut text, &options, &pipeline)
                .write(&module, &info, None)
                .unwrap_or_else(|error| panic!("{what}: HLSL {shader_model:?}: {error}"));
            assert!(text.contains("numthreads"));
        }
    }
}

/// Whether a variant needs no more than every device has.
fn is_within_limits(variant: &Variant) -> Result<(), String> {
    let (module, _) = compile(variant)?;
    let size = |space| {
        let globals = module.global_variables.iter().filter(move |(_, global)| global.space == space);
        globals.map(|(_, global)| module.types[global.ty].inner.size(module.to_ctx())).sum::<u32>()
    };
    let bytes = size(AddressSpace::WorkGroup);
    if bytes > WORKGROUP_BYTES {
        return Err(format!("{bytes} bytes of workgroup memory"));
    }
    let is_storage = |space| matches!(space, AddressSpace::Storage { .. });
    let buffers = module.global_variables.iter().filter(|(_, global)| is_storage(global.space)).count();
    let bound = variant.read_only.len() - usize::from(variant.uniform.is_some());
    if buffers > STORAGE_BUFFERS || buffers != bound {
        return Err(format!("{buffers} storage buffers, {bound} bound"));
    }
    let [x, y, z] = module.entry_points[0].workgroup_size;
    if x * y * z > WORKGROUP_THREADS || z > 64 {
        return Err(format!("{x} × {y} × {z} threads"));
    }
    Ok(())
}

#[test]
fn every_variant_is_within_the_limits_of_every_device() {
    for variant in Variant::all() {
        let what = format!("{} {:?} {:?}", variant.name, variant.features, variant.constants);
        is_within_limits(&variant).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

/// The test above sees what it should see.
#[test]
fn a_shader_over_the_limits_or_wrong_is_noticed() {
    let softmax = || Variant::all().into_iter().find(|variant| variant.name == "softmax").unwrap();
    let planted = |from: &str, to: &str| {
        let mut variant = softmax();
        assert!(variant.source.contains(from), "{from:?} is no longer in the shader");
        variant.source = variant.source.replace(from, to).into();
        is_within_limits(&variant)
    };
    is_within_limits(&softmax()).unwrap();
    let error = |from, to| planted(from, to).unwrap_err();
    assert!(error("const THREADS: u32 = 64u;", "const THREADS: u32 = 512u;").contains("512 × 1 × 1 threads"));
    let more_memory = error("array<vec2<f32>, THREADS>", "array<vec2<f32>, 2100>");
    assert!(more_memory.contains("16800 bytes of workgroup memory"), "{more_memory}");
    let unbound = Variant { read_only: &[true], ..softmax() };
    assert!(is_within_limits(&unbound).unwrap_err().contains("4 storage buffers, 1 bound"));
    planted("const THREADS: u32 = 64u;", "enable subgroups; const THREADS: u32 = 64u;").unwrap_err();
    planted("const THREADS: u32 = 64u;", "const THREADS: f32 = 64.0;").unwrap_err();
}

/// The structs of the host are laid out as the shaders read them.
#[test]
fn structs_agree_between_host_and_shaders() {
    fn layout(name: &str, rule: &str) -> Vec<(String, u32)> {
        let mut updates = Variant::all().into_iter().filter(|variant| variant.name == "update");
        let update = updates.find(|variant| variant.source.contains(rule)).unwrap();
        let (module, _) = compile(&update).unwrap();
        let (_, found) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name)).unwrap();
        let TypeInner::Struct { members, span } = &found.inner else { panic!("{name} is not a struct") };
        let mut layout: Vec<_> = members.iter().map(|member| (member.name.clone().unwrap(), member.offset)).collect();
        layout.push(("the end".to_owned(), *span));
        layout
    }
    macro_rules! host {
        ($type:ident: $($field:ident),*) => {
            vec![
                $((stringify!($field).to_owned(), std::mem::offset_of!($type, $field) as u32),)*
                ("the end".to_owned(), size_of::<$type>() as u32),
            ]
        };
    }
    let step = host!(
        Step: start, n_samples, n_features, feature_blocks, n_classes, n_heads, output_blocks, n_parts, samples_per_part,
        losses_start, scale, sample_weight, rate, largest_weight, n_points, first_part, n_sums, correction_1,
        correction_2, first_column, n_columns, first_segment, n_segments, first_listed, n_listed, n_done, n_leaves, padding
    );
    assert_eq!(layout("Step", "nesterov"), step);
    let momentum = layout("Head", "nesterov");
    assert_eq!(momentum, host!(MomentumHead: learning_rate, l2, intercept, momentum, nesterov));
    assert_ne!(momentum, host!(MomentumHead: l2, learning_rate, intercept, momentum, nesterov));
    let adamw = host!(AdamWHead: learning_rate, l2, intercept, beta_1, beta_2, epsilon, weight_decay);
    assert_eq!(layout("Head", "beta_1"), adamw);
}
