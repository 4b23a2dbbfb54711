import json, traceback, os
import pytest
from test_evaluation.test_metrics.test_mmdet_metrics import *  # noqa
from mmdpad.registry import METRICS

CASES = dict(
 coco=dict(type='CocoMetric', metric=['bbox','segm','proposal','proposal_fast'], classwise=True),
 voc=dict(type='VOCMetric'), voc_recall=dict(type='VOCMetric', metric='recall'),
 lvis=dict(type='LVISMetric'), lvisfix=dict(type='LVISFixedAPMetric', ann_file='x'),
 dump=dict(type='DumpDetResults', out_file_path='{d}/d.pkl'),
 dumpr=dict(type='DumpResults', out_file_path='{d}/r.pkl'),
 odvg=dict(type='DumpODVGResults', outfile_path='{d}/o.jsonl', img_prefix=''),
 prop=dict(type='DumpProposals', output_dir='{d}'),
 cap=dict(type='COCOCaptionMetric', ann_file='{ann}'),
 f30k=dict(type='Flickr30kMetric'), city=dict(type='CityScapesMetric', outfile_prefix='{d}/c', seg_prefix='{d}'),
 oi=dict(type='OpenImagesMetric', get_supercategory=False), reid=dict(type='ReIDMetrics'),
 crowd=dict(type='CrowdHumanMetric', ann_file='{ann}'),
 gref=dict(type='gRefCOCOMetric', ann_file='{ann}'), refexp=dict(type='RefExpMetric', ann_file='{ann}'),
 dod=dict(type='DODCocoMetric', ann_file='{ann}'), ov=dict(type='OVCocoMetric'),
 sem=dict(type='SemSegMetric'), pan=dict(type='CocoPanopticMetric'), pan2=dict(type='CocoPanopticMetric', ann_file='{ann}', seg_prefix='{d}'),
 vid=dict(type='CocoVideoMetric'), mot=dict(type='MOTChallengeMetric'), yt=dict(type='YouTubeVISMetric'),
 occ=dict(type='CocoOccludedSeparatedMetric', occluded_ann='{d}/x.pkl', separated_ann='{d}/x.pkl'),
 ref=dict(type='mmdet.RefSegMetric'))

@pytest.mark.parametrize('name', CASES)
def test_probe(build, tmp_path, name, tiny_config, monkeypatch):
    from mmdpad.engine.runner import evaluation_loops
    monkeypatch.setattr(evaluation_loops, 'why_unreadable', lambda kind: None)
    import pickle
    pickle.dump([], open(tmp_path/'x.pkl','wb'))
    ann=tmp_path/'ann.json'
    images, annotations = [], []
    for number, item in enumerate(DATASETS.build(tiny_config.test_dataloader.dataset), start=1):
        s = item['data_samples']
        x1, y1, x2, y2 = s.gt_instances.bboxes[0].tolist()
        h, w = s.ori_shape
        images.append(dict(id=s.img_id, height=h, width=w, dataset_name='refcoco', file_name=s.img_path))
        annotations.append(dict(id=number, image_id=s.img_id, category_id=7, iscrowd=0, bbox=[x1,y1,x2-x1,y2-y1], area=(x2-x1)*(y2-y1), segmentation=[[x1,y1,x2+1,y1,x2+1,y2+1,x1,y2+1]]))
    ann.write_text(json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=7, name='dog')])))
    case={k:(v.format(d=tmp_path, ann=ann) if isinstance(v,str) else v) for k,v in CASES[name].items()}
    from mmengine.registry import DefaultScope
    try:
        runner = build(case); runner.register_hook(GivenAnswers(wrong=[5], failed=[4]))
        print('\nRESULT', name, 'OK', runner.test())
    except Exception as e:
        tb=traceback.extract_tb(e.__traceback__)[-1]
        print('\nRESULT', name, 'FAIL', type(e).__name__, str(e)[:150], tb.filename.split('/')[-1], tb.lineno)
